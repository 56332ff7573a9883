"""UNets that take the guidance scale as an input (distilled LCM checkpoints) equal diffusers' own pipeline."""

import random

import pytest
import torch
from by_diffusers import reference
from diffusers import LatentConsistencyModelPipeline
from driving import run
from test_alone import KINDS, RELATIVE, check, relative, request

from pipelines.contract.messages import Phase
from pipelines.contract.request import Sampling
from pipelines.families.guidance import embedding


def sampling(guidance, sampler="lcm", steps=4, embedded=True):
    return Sampling(sampler=sampler, steps=steps, guidance_scale=guidance, embedded_guidance=embedded)


@pytest.mark.parametrize("width", [32, 33, 256])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 8.0])
def test_the_embedding_is_diffusers_own_to_the_bit(scale, width):
    wanted = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), width)
    assert torch.equal(embedding(scale, width, torch.device("cpu"), torch.float32), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [1.0, 8.5])
def test_embedded_guidance_equals_diffusers(tiny_guided, kind, guidance):
    assert tiny_guided.family.facts.embedded_guidance
    check(tiny_guided, request(kind, "lcm", guided=False, sampling=sampling(guidance)))


def test_the_scale_changes_the_picture_but_not_the_cost(tiny_guided):
    requests = [
        request("txt2img", "lcm", guided=False, id=f"g{guidance}", sampling=sampling(guidance)) for guidance in (1.5, 8.5)
    ]
    result = run({"tiny": tiny_guided.family}, requests)
    first, second = (result.latents[asked.id, 0] for asked in requests)
    assert relative(first, second) > 100 * RELATIVE
    assert {batch.size for batch in result.batches if batch.phase is Phase.DENOISE} == {2}


def test_unlike_scales_in_company(tiny_guided):
    rng = random.Random(6)
    requests = [
        request(
            "txt2img",
            sampler,
            guided=False,
            id=f"r{index}",
            seeds=(rng.randrange(2**32),),
            sampling=sampling(rng.uniform(1, 12), sampler, rng.randrange(3, 9)),
        )
        for index, sampler in enumerate(["lcm", "lcm", "euler", "ddim", "lcm", "dpmpp_2m"])
    ]
    result = run({"tiny": tiny_guided.family}, requests, join=[rng.randrange(6) for _ in requests])
    assert not result.failed
    for asked in requests:
        assert relative(result.latents[asked.id, 0], reference(tiny_guided, asked)[0]) < RELATIVE


def test_a_request_that_is_wrong_about_it_is_refused(tiny_guided, tiny):
    outside = request("txt2img", "lcm", guided=True, id="outside", sampling=sampling(4.0, embedded=False))
    inside = request("txt2img", "lcm", guided=True, id="inside", sampling=sampling(4.0))
    assert run({"tiny": tiny_guided.family}, [outside]).failed["outside"].code == "invalid_request"
    assert run({"tiny": tiny.family}, [inside]).failed["inside"].code == "invalid_request"
