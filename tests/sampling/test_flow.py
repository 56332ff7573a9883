"""Flow matching: the contract's table and the classes behind it agree, and every sampler finds what it is shown."""

import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch

from pipelines.contract.errors import UnknownSampler, Unsupported
from pipelines.contract.request import Sampling
from pipelines.contract.samplers import BETA, EXPONENTIAL, KARRAS, SAMPLERS, SGM_UNIFORM, check, kept_steps, resolve
from pipelines.sampling.flow import OWN_CLASSES, build, shift_exponent
from pipelines.sampling.noise import Noise
from pipelines.sampling.samplers import CLASSES
from pipelines.sampling.solver import Schedulers

CONFIG = dict(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config) | {"prediction_type": "flow_prediction"}
FLAGS = {KARRAS: "use_karras_sigmas", EXPONENTIAL: "use_exponential_sigmas", BETA: "use_beta_sigmas"}
FLOW = [spec for spec in SAMPLERS if spec.flow]
NOISY_AT_THE_END = {"deis"}
SHAPE = (1, 16, 4, 4)


def noise(seed=1):
    return Noise(seed, torch.device("cpu"), torch.float32)


def walk(sampler, steps, scheduler=None, *, strength=None, stumble=False, config=CONFIG):
    """All the way with a network that knows where the picture is; returns start's picture, the end, and the last guess."""
    own = noise(9)
    picture = torch.tanh(noise(2).draw(SHAPE))
    sampling = Sampling(sampler=sampler, steps=steps, guidance_scale=1.0, scheduler=scheduler)
    solver = Schedulers(config).solver(sampling, own, strength=strength)
    drawn = own.draw(SHAPE)
    latents = solver.initial(drawn) if strength is None else solver.noised(picture, drawn)
    guess = latents
    while not solver.finished:
        # On the line between picture and noise: (latents - picture) / sigma; by the class's own sigma, as timesteps are rounded.
        direction = (solver.scaled(latents) - picture) / sigma_of(solver)
        if stumble:
            saved = solver.save()
            solver.advance(direction * 3, latents)
            solver.restore(saved)
        latents, guess = solver.advance(direction, latents)
    return picture, latents, guess


def sigma_of(solver):
    scheduler = solver._scheduler
    index = solver.begin + solver.position
    if isinstance(scheduler, diffusers.FlowMatchHeunDiscreteScheduler):
        return scheduler.timesteps[index] / 1000
    return scheduler.sigmas[index]


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.id)
def test_what_the_contract_says_of_flow_is_true_of_the_classes(spec):
    plain = inspect.signature(getattr(diffusers, CLASSES[spec.id][0]).__init__).parameters
    able = spec.id in OWN_CLASSES or ("use_flow_sigmas" in plain and spec.id not in NOISY_AT_THE_END)
    assert bool(spec.flow) == able
    if not able:
        with pytest.raises(Unsupported, match="these can: euler, heun"):
            resolve(spec.label, flow=True)
        return
    made = build(spec, None, CONFIG)
    assert (SGM_UNIFORM in spec.flow) == ("sigmas" in inspect.signature(made.set_timesteps).parameters)
    assert spec.img2img == (hasattr(made, "scale_noise") or hasattr(made, "add_noise"))
    if spec.id in OWN_CLASSES:
        accepted = inspect.signature(type(made).__init__).parameters
        assert {name for name, flag in FLAGS.items() if flag in accepted} == spec.flow & set(FLAGS)
    else:
        assert made.config.use_flow_sigmas
        assert made.config.prediction_type == "flow_prediction"
        assert made.config.flow_shift == 3.0


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 50])
@pytest.mark.parametrize("spec", FLOW, ids=lambda spec: spec.id)
def test_a_network_that_knows_the_picture_is_led_to_it(spec, steps):
    for scheduler in (None, *sorted(spec.flow)):
        picture, latents, guess = walk(spec.id, steps, scheduler)
        assert torch.allclose(latents, picture, atol=1e-4), scheduler
        assert torch.allclose(guess, picture, atol=1e-4), scheduler


@pytest.mark.parametrize("spec", FLOW, ids=lambda spec: spec.id)
def test_it_is_led_there_from_a_picture_too(spec):
    picture, latents, _ = walk(spec.id, 8, strength=0.6)
    assert torch.allclose(latents, picture, atol=1e-4)


@pytest.mark.parametrize("sampler", sorted(NOISY_AT_THE_END))
def test_why_a_class_that_could_is_left_out(sampler):
    """diffusers' class repeats the last noise level instead of going on to none: the picture would stay noisy."""
    scheduler = getattr(diffusers, CLASSES[sampler][0])(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    scheduler.set_timesteps(8)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2] > 0.2


@pytest.mark.parametrize("spec", FLOW, ids=lambda spec: spec.id)
def test_options_do_not_leak_from_one_sampler_into_the_next(spec):
    before = build(spec, None, CONFIG).config
    for other in FLOW:
        build(other, None, CONFIG)
    assert build(spec, None, CONFIG).config == before


@pytest.mark.parametrize("spec", FLOW, ids=lambda spec: spec.id)
def test_a_checkpoint_s_own_sigmas_do_not_reach_a_class_that_would_take_them_for_a_diffusion_s(spec):
    config = CONFIG | {"use_exponential_sigmas": True}
    made = build(spec, None, config).config
    assert made.get("use_exponential_sigmas", False) == (EXPONENTIAL in spec.flow)
    picture, latents, _ = walk(spec.id, 6, config=config)
    assert torch.allclose(latents, picture, atol=1e-4)


@pytest.mark.parametrize("spec", FLOW, ids=lambda spec: spec.id)
def test_a_step_taken_back_and_repeated_is_the_same_step(spec):
    assert torch.equal(walk(spec.id, 6)[1], walk(spec.id, 6, stumble=True)[1])


def test_spellings_and_schedules_of_flow_models():
    assert resolve("DPM++ 2M", "automatic", flow=True)[0].id == "dpmpp_2m"
    assert resolve("Euler Karras", flow=True)[1] == KARRAS
    with pytest.raises(Unsupported, match="does not support scheduler 'karras'; it takes automatic"):
        resolve("DPM++ 2M Karras", flow=True)
    with pytest.raises(UnknownSampler):
        resolve("magic", flow=True)
    check(resolve("lcm", flow=True)[0], 100, None, flow=True)


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 28, 30])
@pytest.mark.parametrize("strength", [0.01, 0.1, 0.3, 0.55, 0.6, 0.7, 0.8, 0.99, 1.0])
def test_as_many_steps_are_kept_as_in_diffusers_pipeline(steps, strength):
    scheduler = build(FLOW[0], None, CONFIG)
    scheduler.set_timesteps(steps)
    timesteps, kept = diffusers.StableDiffusion3Img2ImgPipeline.get_timesteps(
        SimpleNamespace(scheduler=scheduler), steps, strength, None
    )
    assert kept_steps(steps, strength, flow=True) == kept == len(timesteps)


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096, 9000])
def test_the_shift_is_the_one_of_diffusers_pipeline(tokens):
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    assert shift_exponent(tokens, {}) == pytest.approx(calculate_shift(tokens, max_shift=1.16), abs=1e-12)
    assert shift_exponent(tokens, CONFIG) == pytest.approx(calculate_shift(tokens), abs=1e-12)
