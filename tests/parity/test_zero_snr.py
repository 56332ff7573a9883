"""Checkpoints with zero terminal SNR (v-prediction, trailing timesteps, rescaled guidance) equal diffusers' own pipeline."""

import random

import pytest
import torch
from by_diffusers import reference
from driving import run
from test_alone import RELATIVE, check, relative, request

from pipelines.contract.request import Sampling
from pipelines.contract.samplers import SAMPLERS

ABLE = [spec.id for spec in SAMPLERS if spec.zero_snr]
UNABLE = [spec.id for spec in SAMPLERS if not spec.zero_snr]


def sampling(sampler, rescale=0.7, steps=8, guidance=7.5):
    return Sampling(sampler=sampler, steps=steps, guidance_scale=guidance, guidance_rescale=rescale)


@pytest.mark.parametrize("rescale", [0.0, 0.7], ids=["plain", "rescaled"])
@pytest.mark.parametrize("sampler", ABLE)
def test_zero_snr_equals_diffusers(tiny_zero_snr, sampler, rescale):
    asked = request("txt2img", sampler, guided=True, sampling=sampling(sampler, rescale))
    assert torch.isfinite(reference(tiny_zero_snr, asked)[0]).all()
    check(tiny_zero_snr, asked)


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
@pytest.mark.parametrize("sampler", ABLE)
def test_zero_snr_from_a_picture_equals_diffusers(tiny_zero_snr, sampler, kind):
    check(tiny_zero_snr, request(kind, sampler, guided=True))


def test_rescaled_and_plain_rows_in_company(tiny_zero_snr):
    rng = random.Random(4)
    requests = [
        request(
            "txt2img",
            sampler,
            guided=True,
            id=f"r{index}",
            seeds=(rng.randrange(2**32),),
            sampling=sampling(sampler, rng.choice([0.0, 0.3, 1.0]), rng.randrange(3, 9), rng.uniform(2, 9)),
        )
        for index, sampler in enumerate(ABLE)
    ]
    result = run({"tiny": tiny_zero_snr.family}, requests, join=[rng.randrange(8) for _ in requests])
    assert not result.failed
    for asked in requests:
        assert relative(result.latents[asked.id, 0], reference(tiny_zero_snr, asked)[0]) < RELATIVE


@pytest.mark.parametrize("sampler", UNABLE)
def test_samplers_that_would_ignore_zero_snr_are_refused(tiny_zero_snr, sampler):
    asked = request("txt2img", sampler, guided=True)
    result = run({"tiny": tiny_zero_snr.family}, [asked])
    assert result.failed[asked.id].code == "unsupported"
    assert "zero terminal" in result.failed[asked.id].message
    assert "euler" in result.failed[asked.id].message


def test_a_sampler_that_takes_everything_for_noise_is_refused(tiny_v):
    asked = request("txt2img", "ipndm", guided=True)
    result = run({"tiny": tiny_v.family}, [asked])
    assert "v_prediction" in result.failed[asked.id].message
