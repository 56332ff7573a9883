"""The same request for another model of ours: what the caller said stays, the rest is the other model's usual. Pure."""

import msgspec
from msgspec.structs import replace

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest, Init, Sampling
from pipelines.contract.samplers import check, check_noise, resolve
from server.domain.wishes import Wishes

_BOUND = ("loras", "controls", "references", "refiner", "skip_layers", "sizes")
"""Made for one architecture."""


class Retargeted(msgspec.Struct, frozen=True):
    """The request as the other model would get it, and what it cannot do of it."""

    request: ImageRequest
    lacking: tuple[str, ...]


def retargeted(request: ImageRequest, wishes: Wishes, family: Family, card: ModelCard) -> Retargeted:
    """``request``, which was made for a model of ``family``, for ``card``."""
    said = frozenset(wishes.said)
    usual, limits = card.defaults, card.limits
    lacking = [*_bound(request, said, same=family is card.family), *_size(request, card)]
    steps = request.sampling.steps if "steps" in said else card.qualities.get(wishes.quality, usual.steps)
    if steps > limits.max_steps:
        lacking.append("steps")
    if len(request.seeds) > limits.max_images:
        lacking.append("n")
    sampling, problem = _sampling(request, said, card, steps)
    if problem:
        lacking.append(problem)
    made = replace(
        request,
        model=card.id,
        sampling=sampling,
        negative_prompt=request.negative_prompt if "negative_prompt" in said else usual.negative_prompt,
        init=_init(request.init, said, card),
        clip_skip=request.clip_skip if "clip_skip" in said else usual.clip_skip,
        refiner=request.refiner if "refiner" in said else usual.refiner,
        sizes=request.sizes if card.family is Family.SDXL else None,
        preview_every=min(request.preview_every, steps),
    )
    return Retargeted(made, tuple(dict.fromkeys(lacking)))


def _bound(request: ImageRequest, said: frozenset[str], *, same: bool) -> list[str]:
    if same:
        return []
    present = {
        "loras": bool(request.loras),
        "controls": bool(request.controls),
        "references": bool(request.references),
        **{name: name in said and getattr(request, name, None) is not None for name in ("refiner", "sizes")},
        "skip_layers": "skip_layers" in said and request.sampling.skip_layers is not None,
    }
    return [name for name in _BOUND if present[name]]


def _size(request: ImageRequest, card: ModelCard) -> list[str]:
    width, height, multiple = request.width, request.height, card.family.multiple
    fits = not width % multiple and not height % multiple and min(width, height) >= card.limits.min_side
    return [] if fits and width * height <= card.limits.max_pixels else ["size"]


def _sampling(request: ImageRequest, said: frozenset[str], card: ModelCard, steps: int) -> tuple[Sampling, str]:
    """The other model's, with what was said; and the option that it cannot have."""
    asked, usual = request.sampling, card.defaults
    sampler = asked.sampler if "sampler" in said else usual.sampler
    scheduler = asked.scheduler if "scheduler" in said else usual.scheduler
    problem = ""
    try:
        spec, scheduler = resolve(sampler, scheduler, flow=card.family.flow)
        check(spec, steps, None if request.init is None else request.init.strength, flow=card.family.flow)
        check_noise(spec, zero_snr=bool(card.schedule.zero_snr), prediction_type=card.schedule.prediction_type or "epsilon")
        sampler = spec.id
    except InvalidRequest as error:
        problem = error.param or "sampler"
    guided = "guidance" in said or "guidance_scale" in said
    sampling = Sampling(
        sampler=sampler,
        steps=steps,
        guidance_scale=asked.guidance_scale if guided else usual.guidance,
        scheduler=scheduler,
        guidance_rescale=asked.guidance_rescale if "guidance_rescale" in said else usual.guidance_rescale,
        embedded_guidance=card.embedded_guidance,
        skip_layers=asked.skip_layers if "skip_layers" in said else usual.skip_layers,
    )
    return sampling, problem


def _init(init: Init | None, said: frozenset[str], card: ModelCard) -> Init | None:
    if init is None or "strength" in said or not init.strength:
        return init
    return replace(init, strength=card.defaults.strength)
