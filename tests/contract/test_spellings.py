"""Every spelling that clients use resolves; every wrong one is refused with what is known."""

import pytest

from pipelines.contract.errors import UnknownSampler, Unsupported
from pipelines.contract.samplers import SAMPLERS, SCHEDULERS, resolve


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("euler", None, ("euler", None)),
        ("Euler a", None, ("euler_a", None)),
        ("k_euler_ancestral", None, ("euler_a", None)),
        ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras")),
        ("DPM++ 2M", "Karras", ("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", "exponential", ("dpmpp_2m", "exponential")),
        ("k_dpmpp_2m", None, ("dpmpp_2m", None)),
        ("k_dpmpp_2m_ka", None, ("dpmpp_2m", "karras")),
        ("dpmpp_2m_sde_gpu", None, ("dpmpp_2m_sde", None)),
        ("DPM++ 2M SDE Exponential", None, ("dpmpp_2m_sde", "exponential")),
        ("DPM++ 3M SDE Karras", None, ("dpmpp_3m_sde", "karras")),
        ("DPM++ SDE Karras", None, ("dpmpp_sde", "karras")),
        ("DPM++ 2S a Karras", None, ("dpmpp_2s", "karras")),
        ("DPM2 a Karras", None, ("dpm2_a", "karras")),
        ("k_dpm_2_a", None, ("dpm2_a", None)),
        ("PLMS", None, ("pndm", None)),
        ("uni_pc", None, ("unipc", None)),
        ("LCM", "SGM Uniform", ("lcm", "sgm_uniform")),
        ("euler", "Automatic", ("euler", "automatic")),
        ("euler", "normal", ("euler", None)),
        ("  HEUN ", None, ("heun", None)),
    ],
)
def test_spellings(name, scheduler, expected):
    spec, schedule = resolve(name, scheduler)
    assert (spec.id, schedule) == expected


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
def test_ids_and_labels_resolve_to_themselves(spec):
    assert resolve(spec.id)[0] is spec
    assert resolve(spec.label)[0] is spec
    for scheduler in SCHEDULERS:
        if scheduler in spec.schedulers:
            assert resolve(spec.id, scheduler) == (spec, scheduler)
        else:
            with pytest.raises(Unsupported, match="does not support"):
                resolve(spec.id, scheduler)


@pytest.mark.parametrize("name", ["", "DPM adaptive", "euler karras beta", "karras", "💥"])
def test_unknown_samplers_name_the_known(name):
    with pytest.raises(UnknownSampler, match="dpmpp_2m_sde") as caught:
        resolve(name)
    assert caught.value.param == "sampler"


def test_unknown_schedulers_name_the_known():
    with pytest.raises(UnknownSampler, match="karras") as caught:
        resolve("euler", "polyexponential")
    assert caught.value.param == "scheduler"


def test_a_suffix_the_class_cannot_take_is_refused():
    with pytest.raises(Unsupported):
        resolve("Euler a Karras")
