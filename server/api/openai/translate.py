"""OpenAI's words into ours: pure functions from body and catalog to an order."""

import math
import re
from collections.abc import Callable
from typing import Literal

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling, Style
from pipelines.contract.samplers import SamplerSpec, check, check_noise, resolve
from server.api.openai.schemas import ImageOptions
from server.catalog.catalog import Catalog
from server.catalog.sizes import fit
from server.domain.asset import Delivery, Format
from server.domain.job import Order

MAX_PROMPT = 32_000
MAX_SEED = (1 << 64) - 1
MAX_GUIDANCE = 100.0
MAX_CLIP_SKIP = 11
MAX_PARTIALS = 3
_SIZE = re.compile(r"(\d{1,6})\s*[xX]\s*(\d{1,6})")
_QUALITY_WORDS = {"standard": "medium", "hd": "high"}
_SHOWN_QUALITIES = ("low", "medium", "high", "xhigh", "max")

Form = Literal["url", "b64_json"]


class Asked(msgspec.Struct, frozen=True):
    """An order, and how its answer is to look."""

    order: Order
    form: Form
    quality: str
    stream: bool = False
    partial_images: int = 0


def generation(body: ImageOptions, catalog: Catalog, *, job_id: str, tenant: str, draw: Callable[[], int]) -> Asked:
    """A text-to-image order; ``draw`` gives the seed if the body has none."""
    card = catalog.card(body.model)
    size = _size(body.size, card) or (card.defaults.width, card.defaults.height)
    asked = _asked(body, card, size, None, _style(body, catalog), job_id=job_id, tenant=tenant, draw=draw)
    return _kept(asked, catalog)


def edit(
    body: ImageOptions,
    catalog: Catalog,
    picture: Picture,
    mask: Picture | None,
    *,
    job_id: str,
    tenant: str,
    draw: Callable[[], int],
) -> Asked:
    """An image-to-image order, or an inpainting one if there is a mask."""
    card = catalog.card(body.model)
    if mask is not None and (mask.width, mask.height) != (picture.width, picture.height):
        msg = f"'mask' is {mask.width}x{mask.height}, 'image' {picture.width}x{picture.height}; they must be alike."
        raise InvalidRequest(msg, param="mask")
    # With a mask the part inside it is to be new; without one the picture is what to start from.
    usual = card.defaults.strength if mask is None else 1.0
    strength = usual if body.strength is None else body.strength
    if not 0 < strength <= 1:
        msg = "'strength' must be above 0 and at most 1."
        raise InvalidRequest(msg, param="strength")
    init = Init(picture=picture, strength=strength, mask=mask, keep_unmasked=mask is not None)
    size = _size(body.size, card) or fit(picture.width, picture.height, card)
    asked = _asked(body, card, size, init, _style(body, catalog), job_id=job_id, tenant=tenant, draw=draw)
    return _kept(asked, catalog)


def with_init(asked: Asked, init: Init) -> Asked:
    """The same, starting from ``init``."""
    request = msgspec.structs.replace(asked.order.request, init=init)
    return msgspec.structs.replace(asked, order=msgspec.structs.replace(asked.order, request=request))


def steps_for(quality: str | None, card: ModelCard) -> int:
    """Steps for a quality word; a word nobody knows means the default, as new ones keep coming."""
    usual, most = card.defaults.steps, card.limits.max_steps
    presets = {"low": max(1, usual // 2), "medium": usual, "high": min(most, usual * 3 // 2), **card.qualities}
    best = max(presets["high"], *card.qualities.values(), 1)
    presets = {"xhigh": best, "max": presets.get("xhigh", best), **presets}
    word = (quality or "auto").lower()
    return presets.get(_QUALITY_WORDS.get(word, word) if word not in presets else word, usual)


def response_form(response_format: str | None, model: str | None) -> Form:
    """What the caller reads: clients of dall-e read only ``url`` unless they say otherwise, all others ``b64_json``."""
    if response_format == "url":
        return "url"
    if response_format == "b64_json":
        return "b64_json"
    if response_format is not None:
        msg = "'response_format' must be 'url' or 'b64_json'."
        raise InvalidRequest(msg, param="response_format")
    return "url" if (model or "").startswith("dall-e") else "b64_json"


def _kept(asked: Asked, catalog: Catalog) -> Asked:
    """The same, with the cards of its models: an edit of models.yaml does not change what was asked."""
    order = msgspec.structs.replace(asked.order, cards=catalog.needed(asked.order.request))
    return msgspec.structs.replace(asked, order=order)


def _asked(
    body: ImageOptions,
    card: ModelCard,
    size: tuple[int, int],
    init: Init | None,
    style: Style | None,
    *,
    job_id: str,
    tenant: str,
    draw: Callable[[], int],
) -> Asked:
    _check_prompt(body.prompt, "prompt", least=1)
    negative = card.defaults.negative_prompt if body.negative_prompt is None else body.negative_prompt
    _check_prompt(negative, "negative_prompt", least=0)
    if (body.background or "auto") not in ("auto", "opaque"):
        msg = "'background' can be 'opaque' or 'auto': these models do not make transparent images."
        raise Unsupported(msg, param="background")
    sampling = _sampling(body, card, init)
    stream, partials = bool(body.stream), _whole(body.partial_images, "partial_images", 0, 0, MAX_PARTIALS)
    request = ImageRequest(
        id=job_id,
        model=card.id,
        prompt=body.prompt,
        negative_prompt=negative,
        style=style,
        width=size[0],
        height=size[1],
        seeds=_seeds(body, card, draw),
        sampling=sampling,
        init=init,
        clip_skip=_whole(body.clip_skip, "clip_skip", card.defaults.clip_skip, 0, MAX_CLIP_SKIP),
        refiner=card.defaults.refiner,
        preview_every=_preview_every(sampling.steps, partials) if stream else 0,
    )
    shown = _QUALITY_WORDS.get(body.quality or "", body.quality or "")
    return Asked(
        order=Order(request, _delivery(body), tenant),
        form=response_form(body.response_format, body.model),
        quality=shown if shown in _SHOWN_QUALITIES else "medium",
        stream=stream,
        partial_images=partials,
    )


def _style(body: ImageOptions, catalog: Catalog) -> Style | None:
    return catalog.style(body.style_preset) if body.style_preset else None


def _check_prompt(text: str, param: str, *, least: int) -> None:
    if not least <= len(text) <= MAX_PROMPT:
        msg = f"{param!r} has {len(text)} characters; it must have from {least} to {MAX_PROMPT}."
        raise InvalidRequest(msg, param=param)


def _size(text: str | None, card: ModelCard) -> tuple[int, int] | None:
    """The size asked for, or None if it is left to us."""
    if text is None or text.strip().lower() in ("auto", ""):
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        msg = f"'size' must be 'auto' or WIDTHxHEIGHT such as '{card.defaults.width}x{card.defaults.height}'."
        raise InvalidRequest(msg, param="size")
    width, height = int(found[1]), int(found[2])
    limits, multiple = card.limits, card.family.multiple
    if width % multiple or height % multiple or min(width, height) < limits.min_side:
        msg = f"'size' {width}x{height}: both sides must be multiples of {multiple}, {limits.min_side} or more."
        raise InvalidRequest(msg, param="size")
    if width * height > limits.max_pixels:
        near = "x".join(map(str, fit(width, height, card)))
        msg = (
            f"'size' {width}x{height} has {width * height} pixels; model {card.id!r} makes at most {limits.max_pixels}"
            f" (for example {near})."
        )
        raise TooLarge(msg, param="size")
    return width, height


def _seeds(body: ImageOptions, card: ModelCard, draw: Callable[[], int]) -> tuple[int, ...]:
    count = _whole(body.n, "n", 1, 1, card.limits.max_images)
    first = draw() if body.seed is None else _whole(body.seed, "seed", 0, 0, MAX_SEED)
    return tuple((first + index) & MAX_SEED for index in range(count))


def _sampling(body: ImageOptions, card: ModelCard, init: Init | None) -> Sampling:
    defaults = card.defaults
    steps = _whole(body.steps, "steps", steps_for(body.quality, card), 1, card.limits.max_steps)
    guidance = defaults.guidance if body.guidance_scale is None else body.guidance_scale
    if not 0 <= guidance <= MAX_GUIDANCE:
        msg = f"'guidance_scale' must be from 0 to {MAX_GUIDANCE:g}."
        raise InvalidRequest(msg, param="guidance_scale")
    rescale = defaults.guidance_rescale if body.guidance_rescale is None else body.guidance_rescale
    if not 0 <= rescale <= 1:
        msg = "'guidance_rescale' must be from 0 to 1."
        raise InvalidRequest(msg, param="guidance_rescale")
    spec, scheduler = _sampler(body, card)
    check(spec, steps, None if init is None else init.strength, flow=card.family.flow)
    check_noise(spec, zero_snr=bool(card.schedule.zero_snr), prediction_type=card.schedule.prediction_type or "epsilon")
    return Sampling(
        sampler=spec.id,
        steps=steps,
        guidance_scale=guidance,
        scheduler=scheduler,
        guidance_rescale=rescale,
        embedded_guidance=card.embedded_guidance,
        skip_layers=defaults.skip_layers,
    )


def _sampler(body: ImageOptions, card: ModelCard) -> tuple[SamplerSpec, str | None]:
    if body.sampler is not None:
        return resolve(body.sampler, body.scheduler, flow=card.family.flow)
    usual = card.defaults.scheduler if body.scheduler is None else body.scheduler
    return resolve(card.defaults.sampler, usual, flow=card.family.flow)


def _delivery(body: ImageOptions) -> Delivery:
    word = (body.output_format or "png").lower()
    known = {"png": Format.PNG, "jpeg": Format.JPEG, "jpg": Format.JPEG, "webp": Format.WEBP}
    if word not in known:
        msg = f"'output_format' must be one of png, jpeg, webp; {word!r} is not made here."
        raise Unsupported(msg, param="output_format")
    quality = body.output_compression
    if quality is None:
        return Delivery(known[word])
    _whole(quality, "output_compression", 0, 0, 100)
    if known[word] is Format.PNG:
        if quality == 100:  # noqa: PLR2004 - OpenAI's default, sent by clients that send every default
            return Delivery(Format.PNG)
        msg = "'output_compression' goes with jpeg and webp only."
        raise InvalidRequest(msg, param="output_compression")
    return Delivery(known[word], quality)


def _whole(value: int | None, param: str, absent: int, low: int, high: int) -> int:
    if value is None:
        return absent
    if not low <= value <= high:
        kind = TooLarge if value > high else InvalidRequest
        msg = f"{param!r} is {value}; it must be from {low} to {high}."
        raise kind(msg, param=param)
    return value


def _preview_every(steps: int, partials: int) -> int:
    """Spread ``partials`` previews evenly, none at the very end."""
    return 0 if partials == 0 else max(1, math.ceil(steps / (partials + 1)))
