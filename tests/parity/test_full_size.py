"""Every family at its published size with random weights, 128 px and two steps: equal to diffusers, within 20 GiB of memory.

Each in a process of its own, which begins with nothing and gives back everything; one after the other, as
``scripts/test -m slow`` runs them: two at once would not fit.
"""

import os
import resource
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from by_diffusers import reference as sd_reference
from driving import run
from full_size import SD, SD3, FullSD, FullSD3, FullXL
from sd3_by_diffusers import reference as sd3_reference
from sdxl_by_diffusers import reference as sdxl_reference
from test_alone import RELATIVE, relative

from pipelines.contract.request import ImageRequest, Sampling, SkipLayers
from pipelines.sampling.noise import Noise

GIB = 1 << 30
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def request(name: str, *, guidance: float = 5.0, skip: SkipLayers | None = None) -> ImageRequest:
    return ImageRequest(
        id=name,
        model="full",
        prompt="a large red circle on a blue background",
        negative_prompt="a square" if guidance > 1 else "",
        width=128,
        height=128,
        seeds=(7,),
        sampling=Sampling(sampler="euler", steps=2, guidance_scale=guidance, skip_layers=skip),
    )


def check(make, asked, reference, parameters):
    """The whole test of one checkpoint; runs in a process that has done nothing before."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    full = make()
    low, high = parameters
    assert low < full.family.facts.parameters / 1e9 < high
    result = run({"full": full.family}, [asked])
    assert not result.failed
    latents = result.latents[asked.id, 0]
    drawn = Noise(asked.seeds[0], full.family.device, full.family.dtype).draw(latents.shape)
    assert torch.isfinite(latents).all()
    assert relative(latents, drawn) > 0.01, "the network said something"
    assert result.pixels[asked.id, 0].shape == (128, 128, 3)
    wanted, _ = reference(full, asked)
    assert relative(latents, wanted) < RELATIVE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = f"{asked.id}: {full.family.facts.parameters / 1e9:.2f} billion parameters, peak {peak / GIB:.1f} GiB"
    assert peak < 20 * GIB, told
    return told


def alone(*arguments):
    """`check` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        print(pool.submit(check, *arguments).result())


@pytest.mark.parametrize(("name", "parameters"), [("sd1.5", (1.0, 1.1)), ("sd2.1", (1.2, 1.4))])
def test_sd(name, parameters):
    assert name in SD
    alone(partial(FullSD, name), request(name), sd_reference, parameters)


def test_sdxl():
    alone(FullXL, request("sdxl"), sdxl_reference, (3.4, 3.6))


@pytest.mark.parametrize(
    ("name", "parameters"), [("sd3-medium", (2.8, 3.1)), ("sd3.5-medium", (3.0, 3.3)), ("sd3.5-large", (8.8, 9.1))]
)
def test_sd3(name, parameters):
    assert name in SD3
    # Two steps; the skipped layers' evaluation is due at the second.
    skip = SkipLayers((7, 8, 9), 2.8, 0.0, 1.0) if name == "sd3.5-medium" else None
    alone(partial(FullSD3, name), request(name, guidance=5.0 if skip else 1.0, skip=skip), sd3_reference, parameters)
