"""Control networks for SDXL: ControlNets, unions and T2I-Adapters equal diffusers' own pipelines, alone and in company."""

import msgspec
import numpy as np
import pytest
from control_by_diffusers import reference
from driving import run
from sdxl_by_diffusers import reference as plain_reference
from test_alone import KINDS, RELATIVE, relative
from test_alone import request as plain
from tiny_controls import GUESS, SAMPLERS, controlnet, long_enough, t2i_adapter, union
from tiny_sdxl import TinyXL

from pipelines.contract.family import Family
from pipelines.contract.messages import Phase


@pytest.fixture(scope="module")
def base():
    return TinyXL()


@pytest.fixture(scope="module")
def inpaint():
    return TinyXL(in_channels=9, seed=1)


@pytest.fixture(scope="module")
def controls(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    # Features of half the size throughout: as SDXL's own, which begin where the first block has halved it.
    adapter = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 16, "adapter_type": "full_adapter_xl"}
    made = [
        controlnet(folder / "a", base.unet, Family.SDXL, seed=1),
        controlnet(folder / "b", base.unet, Family.SDXL, seed=2),
        union(folder / "union", base.unet, seed=3),
        union(folder / "union-b", base.unet, seed=4),
        t2i_adapter(folder / "adapter", Family.SDXL, seed=5, **adapter),
        t2i_adapter(folder / "adapter-b", Family.SDXL, seed=6, **adapter),
    ]
    return {each.card.name: each for each in made}


def ask(kind, sampler, **changes):
    return plain(kind, sampler, **({"guided": True, "model": "xl"} | changes))


def check(tiny, asked, controls):
    bare = msgspec.structs.replace(asked, id="bare", controls=())
    result = run({"xl": tiny.family}, [asked, bare])
    assert not result.failed
    latents, pixels = reference(tiny, asked, controls)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE
    assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1
    assert relative(result.latents[asked.id, 0], result.latents["bare", 0]) > 0.01, "the control says nothing"


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_controlnet_equals_diffusers(base, controls, sampler, kind, guided):
    check(base, ask(kind, sampler, guided=guided, controls=(controls["a"].use(end=0.8),)), controls)


@pytest.mark.parametrize("kind", KINDS)
def test_two_controlnets_equal_diffusers(base, controls, kind):
    uses = (controls["a"].use(1, end=0.7), controls["b"].use(2, weight=0.5, start=0.2))
    check(base, ask(kind, "euler", controls=uses), controls)


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
def test_guess_mode(base, controls, guided):
    check(base, ask("txt2img", "euler", guided=guided, controls=(controls["a"].use(**GUESS),)), controls)


def test_beside_nine_channels_it_sees_the_latents_only(inpaint, controls):
    check(inpaint, ask("inpaint", "euler", controls=(controls["a"].use(),)), controls)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_union_equals_diffusers(base, controls, sampler, kind):
    check(base, ask(kind, sampler, controls=(controls["union"].use(mode="depth", start=0.2),)), controls)


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_with_two_control_images_equals_diffusers(base, controls, kind):
    network = controls["union"]
    uses = (network.use(1, mode="edges", weight=1.1, end=0.7), network.use(2, mode="pose", weight=0.5))
    check(base, ask(kind, "euler", controls=uses), controls)


@pytest.mark.parametrize("count", [1, 2])
def test_a_union_unguided_in_guess_mode(base, controls, count):
    """Guided it fails in diffusers, which gives the network twice as many kinds as latents."""
    uses = tuple(controls["union"].use(index, mode=mode, **GUESS) for index, mode in enumerate(("edges", "depth")[:count]))
    check(base, ask("txt2img", "euler", guided=False, controls=uses), controls)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("end", [1.0, 0.5])
def test_a_t2i_adapter_equals_diffusers(base, controls, sampler, end):
    """Not for two evaluations a step: there diffusers silences it half-way even when told to let it speak to the end."""
    for guided in (True, False):
        check(base, ask("txt2img", sampler, guided=guided, controls=(controls["adapter"].use(end=end),)), controls)


def test_two_t2i_adapters_equal_diffusers(base, controls):
    uses = (controls["adapter"].use(1), controls["adapter-b"].use(2, weight=0.4))
    check(base, ask("txt2img", "euler", controls=uses), controls)


def test_in_company_each_row_is_as_alone(base, controls):
    a, one, other, adapter = controls["a"], controls["union"], controls["union-b"], controls["adapter"]
    requests = {
        "plain": ask("txt2img", "euler"),
        "a": ask("txt2img", "euler", controls=(a.use(1),)),
        "a-inpaint": ask("inpaint", "dpmpp_2m", controls=(a.use(2, end=0.6),)),
        "union-depth": ask("txt2img", "euler", controls=(one.use(3, mode="depth"),)),
        "union-edges": ask("img2img", "euler", controls=(one.use(4, mode="edges", weight=1.4),)),
        "union-both": ask("txt2img", "heun", controls=(one.use(5, mode="edges"), one.use(6, mode="pose", weight=0.3))),
        "union-unguided": ask("txt2img", "euler", guided=False, controls=(other.use(7, mode="pose"),)),
        "adapter": ask("txt2img", "euler", controls=(adapter.use(8),)),
        "plain-unguided": ask("img2img", "euler_a", guided=False),
    }
    requests = long_enough(requests)
    result = run({"xl": base.family}, list(requests.values()), max_rows=20)
    assert not result.failed
    assert max(len(batch.rows) for batch in result.batches if batch.phase is Phase.DENOISE) == len(requests), "they never met"
    for name, asked in requests.items():
        wanted, _ = reference(base, asked, controls) if asked.controls else plain_reference(base, asked)
        assert relative(result.latents[name, 0], wanted) < RELATIVE, name


def test_kinds_of_networks_on_one_row_add_up(base, controls):
    """No pipeline of diffusers takes them together; the sum must at least be no network's own."""
    names = {"a": {}, "union": {"mode": "depth"}, "adapter": {}}
    uses = {name: controls[name].use(**more) for name, more in names.items()}
    asked = [ask("txt2img", "euler", id=name, controls=(use,)) for name, use in uses.items()]
    asked.append(ask("txt2img", "euler", id="all", controls=tuple(uses.values())))
    result = run({"xl": base.family}, asked)
    assert not result.failed
    for name in names:
        assert relative(result.latents["all", 0], result.latents[name, 0]) > 0.01
