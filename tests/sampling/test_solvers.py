"""The table of ids in the contract and the classes behind it agree."""

import inspect

import diffusers
import pytest
import torch

from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.contract.request import Sampling
from pipelines.contract.samplers import BETA, EXPONENTIAL, KARRAS, SAMPLERS
from pipelines.sampling.noise import Noise
from pipelines.sampling.samplers import CLASSES, build, schedule_options
from pipelines.sampling.solver import Schedulers

CONFIG = dict(
    diffusers.PNDMScheduler.from_config(
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "steps_offset": 1,
            "clip_sample": False,
            "skip_prk_steps": True,
        }
    ).config
)
RUNGE_KUTTA = CONFIG | {"skip_prk_steps": False}
FLAGS = {KARRAS: "use_karras_sigmas", EXPONENTIAL: "use_exponential_sigmas", BETA: "use_beta_sigmas"}


def noise(seed: int = 1) -> Noise:
    return Noise(seed, torch.device("cpu"), torch.float32)


def test_every_id_has_a_class_and_no_class_is_without_an_id():
    assert [spec.id for spec in SAMPLERS] == list(CLASSES)


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
def test_what_the_contract_says_of_a_class_is_true(spec):
    cls = getattr(diffusers, CLASSES[spec.id][0])
    accepted = inspect.signature(cls.__init__).parameters
    for schedule, flag in FLAGS.items():
        assert (schedule in spec.schedulers) == (flag in accepted)
    assert spec.img2img == hasattr(cls, "add_noise")
    assert spec.zero_snr == ("rescale_betas_zero_snr" in accepted)
    assert spec.predictions == ("prediction_type" in accepted)


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
def test_options_do_not_leak_from_one_sampler_into_the_next(spec):
    """`from_config` on another scheduler's config would carry its algorithm over: each is built from the checkpoint's."""
    before = build(spec, None, CONFIG).config
    for other in SAMPLERS:
        build(other, None, CONFIG)
    assert build(spec, None, CONFIG).config == before
    if spec.id.startswith("dpmpp_2m") or spec.id.startswith("dpmpp_3m"):
        assert before.algorithm_type == ("sde-dpmsolver++" if spec.id.endswith("sde") else "dpmsolver++")


def test_a_schedule_clears_the_checkpoint_s_own():
    config = CONFIG | {"use_karras_sigmas": True}
    spec = next(spec for spec in SAMPLERS if spec.id == "euler")
    assert build(spec, None, config).config.use_karras_sigmas
    made = build(spec, EXPONENTIAL, config).config
    assert made.use_exponential_sigmas
    assert not made.use_karras_sigmas


def test_an_unsupported_schedule_is_refused():
    spec = next(spec for spec in SAMPLERS if spec.id == "ddim")
    with pytest.raises(Unsupported):
        schedule_options(spec, KARRAS)


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_any_number_of_steps_ends_in_finite_latents(spec, steps):
    solver = Schedulers(CONFIG).solver(Sampling(sampler=spec.id, steps=steps, guidance_scale=1.0), noise())
    latents = solver.initial(noise().draw((1, 4, 8, 8)))
    while not solver.finished:
        latents, guess = solver.advance(torch.tanh(solver.scaled(latents)), latents)
        assert torch.isfinite(latents).all()
        assert guess.shape == latents.shape


@pytest.mark.parametrize("spec", [spec for spec in SAMPLERS if spec.max_steps < 1000], ids=lambda spec: spec.id)
def test_the_stated_most_steps_are_the_class_s_own(spec):
    schedulers = Schedulers(CONFIG)
    schedulers.solver(Sampling(sampler=spec.id, steps=spec.max_steps, guidance_scale=1.0), noise())
    with pytest.raises(TooLarge, match="at most 50"):
        schedulers.solver(Sampling(sampler=spec.id, steps=spec.max_steps + 1, guidance_scale=1.0), noise())
    with pytest.raises(ValueError, match="num_inference_steps"):
        build(spec, None, CONFIG).set_timesteps(spec.max_steps + 1)


def test_no_step_left_is_an_error_that_says_why():
    with pytest.raises(InvalidRequest, match="strength") as caught:
        Schedulers(CONFIG).solver(Sampling(sampler="euler", steps=5, guidance_scale=1.0), noise(), strength=0.1)
    assert caught.value.param == "strength"


def test_a_step_count_the_class_refuses_is_the_caller_s_error():
    with pytest.raises(InvalidRequest, match="cannot run 2 steps") as caught:
        Schedulers(RUNGE_KUTTA).solver(Sampling(sampler="pndm", steps=2, guidance_scale=1.0), noise())
    assert caught.value.param == "steps"


@pytest.mark.parametrize("config", [CONFIG, RUNGE_KUTTA], ids=["plain", "runge-kutta"])
@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
def test_a_step_taken_back_and_repeated_is_the_same_step(spec, config):
    """Out of memory may strike after some rows of a tick have advanced: a restored solver repeats its step to the bit."""

    def walk(*, stumble: bool) -> torch.Tensor:
        own = noise(9)
        solver = Schedulers(config).solver(Sampling(sampler=spec.id, steps=6, guidance_scale=1.0), own)
        latents = solver.initial(own.draw((1, 4, 8, 8)))
        while not solver.finished:
            prediction = torch.tanh(solver.scaled(latents))
            if stumble:
                saved = solver.save()
                solver.advance(prediction * 3, latents)
                solver.restore(saved)
            latents, _ = solver.advance(prediction, latents)
        return latents

    assert torch.equal(walk(stumble=False), walk(stumble=True))


def test_the_same_seed_gives_the_same_noise_as_diffusers():
    from diffusers.utils.torch_utils import randn_tensor

    ours = noise(2**64 - 1).draw((1, 4, 8, 8))
    theirs = randn_tensor((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(2**64 - 1))
    assert torch.equal(ours, theirs)


def test_remembered_lms_coefficients_belong_to_their_own_schedule():
    def walk(schedulers: Schedulers, steps: int, scheduler: str | None) -> torch.Tensor:
        own = noise(4)
        solver = schedulers.solver(Sampling(sampler="lms", steps=steps, guidance_scale=1.0, scheduler=scheduler), own)
        latents = solver.initial(own.draw((1, 4, 8, 8)))
        while not solver.finished:
            latents, _ = solver.advance(torch.tanh(solver.scaled(latents)), latents)
        return latents

    shared = Schedulers(CONFIG)
    for steps, scheduler in [(6, None), (7, None), (6, "karras"), (6, None), (7, None), (6, "karras")]:
        assert torch.equal(walk(shared, steps, scheduler), walk(Schedulers(CONFIG), steps, scheduler))
