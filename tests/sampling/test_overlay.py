from types import MappingProxyType

import diffusers
import pytest

from pipelines.contract.catalog import Schedule
from pipelines.contract.samplers import resolve
from pipelines.sampling.overlay import overridden
from pipelines.sampling.samplers import build

CONFIG = MappingProxyType({"prediction_type": "epsilon", "timestep_spacing": "leading", "rescale_betas_zero_snr": True})


def test_what_the_card_does_not_say_stays():
    assert overridden(CONFIG, Schedule()) == CONFIG


def test_the_card_has_the_last_word():
    said = Schedule(prediction_type="v_prediction", zero_snr=False, timestep_spacing="trailing", shift=2.5)
    assert overridden(CONFIG, said) == {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": False,
        "shift": 2.5,
    }


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "unipc"])
def test_every_class_takes_the_card_s_words(sampler):
    config = dict(diffusers.PNDMScheduler(beta_schedule="scaled_linear").config)
    said = Schedule(prediction_type="v_prediction", zero_snr=True, timestep_spacing="trailing")
    built = build(resolve(sampler)[0], None, overridden(config, said)).config
    assert (built.prediction_type, built.rescale_betas_zero_snr, built.timestep_spacing) == ("v_prediction", True, "trailing")


def test_a_flow_schedule_takes_the_card_s_shift():
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert diffusers.FlowMatchEulerDiscreteScheduler.from_config(overridden(config, Schedule(shift=1.5))).config.shift == 1.5
