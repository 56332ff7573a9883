"""One translation for every dialect of ours: options, pictures and catalog into an order. Pure.

A dialect reads what it words in its own way (size, number of images, steps by quality, ...) into `Terms`; what all of them word
alike is read here. Every refusal names the field.
"""

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.loras import extract
from pipelines.contract.picture import Picture
from pipelines.contract.request import (
    ImageRequest,
    Init,
    Refiner,
    Sampling,
    SizeConditioning,
    SkipLayers,
)
from pipelines.contract.samplers import SamplerSpec, check, check_noise, resolve
from server.api import adapters
from server.api.caching import chosen
from server.api.checks import few, number, whole
from server.api.enlarging import hires, upscale
from server.api.inputs import init
from server.api.options import RefinerOption, Shaping, SizesOption, SkipLayersOption
from server.api.sizing import drawn
from server.catalog.catalog import Catalog
from server.domain.asset import Delivery
from server.domain.job import Order
from server.domain.origin import Origin

MAX_PROMPT = 32_000
MAX_SEED = (1 << 64) - 1
MAX_GUIDANCE = 100.0
MAX_CLIP_SKIP = 11
MAX_SKIPPED = 64
MAX_IMAGINED = 16_384
"""Pixels of an imagined original picture, along a side."""
NOTHING = "none"
"""Switches off what the card would add."""


class Supplied(msgspec.Struct, frozen=True):
    """The pictures that came with the options, decoded."""

    image: Picture | None = None
    mask: Picture | None = None
    controls: tuple[Picture, ...] = ()
    references: tuple[tuple[Picture, ...], ...] = ()
    origins: tuple[Origin, ...] = ()
    """Files of those that somebody has signed."""


class Terms(msgspec.Struct, frozen=True):
    """What each dialect words in its own way, read and checked."""

    prompt: str
    size: tuple[int, int]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    delivery: Delivery = Delivery()
    previews: int = 0
    """Previews of each image; 0 for none."""
    seeded: bool = False
    """Whether the caller chose the seeds; else they were drawn."""


def begun(options: Shaping, card: ModelCard, supplied: Supplied) -> Init | None:
    """What the images start from: dialects need it first, as a size that is not said follows it."""
    return init(options, card, supplied.image, supplied.mask)


def ordered(
    options: Shaping,
    terms: Terms,
    start: Init | None,
    supplied: Supplied,
    *,
    card: ModelCard,
    catalog: Catalog,
    job_id: str,
    tenant: str,
) -> Order:
    """The order, with the cards of its models: an edit of models.yaml does not change what was asked."""
    negative = card.defaults.negative_prompt if options.negative_prompt is None else options.negative_prompt
    check_prompt(negative, "negative_prompt", least=0)
    style = catalog.style(options.style_preset) if options.style_preset else None
    words = adapters.worded(terms.prompt, negative, style, keys=options.loras, catalog=catalog, card=card)
    sampling, spec = _sampling(options, terms, start, card)
    second = hires(options.hires, terms.size, card, catalog)
    if second is not None and start is not None and start.masking.only_masked:
        msg = "'hires' does not go with 'only_masked': there the picture keeps its own size."
        raise Unsupported(msg, param="hires")
    request = ImageRequest(
        id=job_id,
        model=card.id,
        prompt=words.prompt,
        negative_prompt=words.negative_prompt,
        style=words.style,
        width=terms.size[0],
        height=terms.size[1],
        seeds=terms.seeds,
        sampling=sampling,
        init=start,
        clip_skip=whole(options.clip_skip, "clip_skip", card.defaults.clip_skip, 0, MAX_CLIP_SKIP),
        loras=words.loras,
        controls=adapters.controls(options.controls, supplied.controls, catalog, card),
        references=adapters.references(options.references, supplied.references, catalog, card),
        hires=second,
        sizes=_sizes(options.sizes, card),
        refiner=_refiner(options.refiner, card, catalog),
        preview_every=preview_every(sampling.steps, terms.previews),
    )
    request = msgspec.structs.replace(request, upscale=upscale(options.upscale, drawn(request), card, catalog))
    _check_passes(request, spec, card)
    _check_tags(request)
    return Order(
        request,
        terms.delivery,
        tenant,
        cards=catalog.needed(request),
        origins=supplied.origins,
        cache=chosen(options.cache, seeded=terms.seeded),
        seeded=terms.seeded,
    )


def check_prompt(text: str, param: str, *, least: int) -> None:
    """Refuse a text that is too short or too long."""
    if not least <= len(text) <= MAX_PROMPT:
        msg = f"{param!r} has {len(text)} characters; it must have from {least} to {MAX_PROMPT}."
        raise InvalidRequest(msg, param=param)


def preview_every(steps: int, previews: int) -> int:
    """Spread ``previews`` evenly, none at the very end."""
    return 0 if previews == 0 else max(1, -(-steps // (previews + 1)))


def _sampling(options: Shaping, terms: Terms, start: Init | None, card: ModelCard) -> tuple[Sampling, SamplerSpec]:
    usual = card.defaults
    rescale = number(options.guidance_rescale, "guidance_rescale", usual.guidance_rescale, 0.0, 1.0)
    if options.sampler is not None:
        spec, scheduler = resolve(options.sampler, options.scheduler, flow=card.family.flow)
    else:
        schedule = usual.scheduler if options.scheduler is None else options.scheduler
        spec, scheduler = resolve(usual.sampler, schedule, flow=card.family.flow)
    check(spec, terms.steps, start.strength if start and start.strength else None, flow=card.family.flow)
    check_noise(spec, zero_snr=bool(card.schedule.zero_snr), prediction_type=card.schedule.prediction_type or "epsilon")
    sampling = Sampling(
        sampler=spec.id,
        steps=terms.steps,
        guidance_scale=terms.guidance,
        scheduler=scheduler,
        guidance_rescale=rescale,
        embedded_guidance=card.embedded_guidance,
        skip_layers=_skip_layers(options.skip_layers, card),
    )
    return sampling, spec


def _skip_layers(asked: SkipLayersOption | str | None, card: ModelCard) -> SkipLayers | None:
    if asked is None:
        return card.defaults.skip_layers
    if isinstance(asked, str):
        _check_nothing(asked, "skip_layers", '{"layers": [7, 8, 9]}')
        return None
    if card.family is not Family.SD3:
        msg = f"Skip-layer guidance is for models of family sd3; {card.id!r} is of family {card.family.value}."
        raise Unsupported(msg, param="skip_layers")
    usual = SkipLayers(())
    few(len(asked.layers), "skip_layers.layers", MAX_SKIPPED)
    if not asked.layers or min(asked.layers) < 0:
        msg = "'skip_layers.layers' must name one block or more, counted from 0."
        raise InvalidRequest(msg, param="skip_layers.layers")
    start = number(asked.start, "skip_layers.start", usual.start, 0.0, 1.0)
    stop = number(asked.stop, "skip_layers.stop", usual.stop, 0.0, 1.0)
    if start >= stop:
        msg = "'skip_layers.start' must be before 'skip_layers.stop'."
        raise InvalidRequest(msg, param="skip_layers.start")
    scale = number(asked.scale, "skip_layers.scale", usual.scale, 0.0, 20.0)
    return SkipLayers(tuple(sorted(set(asked.layers))), scale, start, stop)


def _refiner(asked: RefinerOption | str | None, card: ModelCard, catalog: Catalog) -> Refiner | None:
    if asked is None:
        return card.defaults.refiner
    if isinstance(asked, str):
        if asked.strip().lower() == NOTHING and NOTHING not in catalog.cards:
            return None
        asked = RefinerOption(asked)
    if asked.model not in catalog.cards and asked.model not in catalog.aliases:
        msg = f"There is no model {asked.model!r} to refine with; there are {', '.join(catalog.cards)}."
        raise InvalidRequest(msg, param="refiner.model")
    other = catalog.card(asked.model)
    if other.family is not card.family:
        msg = f"Model {other.id!r} is of family {other.family.value}, and cannot finish what family {card.family.value} began."
        raise Unsupported(msg, param="refiner.model")
    switch_at = Refiner(other.id).switch_at if asked.switch_at is None else asked.switch_at
    if not 0 < switch_at < 1:
        msg = "'refiner.switch_at' must be above 0 and below 1."
        raise InvalidRequest(msg, param="refiner.switch_at")
    return Refiner(other.id, switch_at)


def _sizes(asked: SizesOption | None, card: ModelCard) -> SizeConditioning | None:
    if asked is None:
        return None
    if card.family is not Family.SDXL:
        msg = f"'sizes' are for models of family sdxl; {card.id!r} is of family {card.family.value}."
        raise Unsupported(msg, param="sizes")
    for name, pair, least in (("original", asked.original, 1), ("crop", asked.crop, 0), ("target", asked.target, 1)):
        for side in pair or ():
            whole(side, f"sizes.{name}", least, least, MAX_IMAGINED)
    usual = SizeConditioning()
    return SizeConditioning(
        original=asked.original,
        crop=asked.crop or usual.crop,
        target=asked.target,
        aesthetic_score=number(asked.aesthetic_score, "sizes.aesthetic_score", usual.aesthetic_score, 0.0, 10.0),
        negative_aesthetic_score=number(
            asked.negative_aesthetic_score, "sizes.negative_aesthetic_score", usual.negative_aesthetic_score, 0.0, 10.0
        ),
    )


def _check_nothing(word: str, param: str, example: str) -> None:
    if word.strip().lower() != NOTHING:
        msg = f"{param!r} must be {NOTHING!r} or such as {example}."
        raise InvalidRequest(msg, param=param)


def _check_passes(request: ImageRequest, spec: SamplerSpec, card: ModelCard) -> None:
    """Later passes start from a picture, with steps and strength of their own."""
    passes: list[tuple[str, int, float]] = []
    if request.hires is not None:
        steps = request.sampling.steps if request.hires.steps is None else request.hires.steps
        passes.append(("hires", steps, request.hires.strength))
    if request.upscale is not None and request.upscale.tiles is not None:
        passes.append(("upscale.tiles", request.sampling.steps, request.upscale.tiles.strength))
    for where, steps, strength in passes:
        try:
            check(spec, steps, strength, flow=card.family.flow)
        except InvalidRequest as error:
            param = error.param if error.param == "sampler" else f"{where}.{error.param}"
            msg = f"{where!r}: {error.message}"
            raise type(error)(msg, param=param) from None


def _check_tags(request: ImageRequest) -> None:
    """A tag inside a tag would come to light now, and the engine reads none."""
    for param, text in (("prompt", request.styled_prompt), ("negative_prompt", request.styled_negative)):
        if extract(text)[1]:
            msg = f"{param!r} has a LoRA tag inside another."
            raise InvalidRequest(msg, param=param)
