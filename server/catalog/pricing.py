"""What a request costs: exactly once it is done, as a range before. Pure; all money is in US dollars."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from pipelines.contract.request import ImageRequest
from server.catalog.prices import BySize, LocalMoney, Price
from server.domain.generation import Usage

PER = 1_000_000
"""Tokens that a price is for; also the pixels of a megapixel."""
SECONDS_PER_HOUR = 3600.0

_FACTORS = {"low": 16, "medium": 48, "high": 96}
"""Of OpenAI's formula: cells along the longer side."""
_STANDARD = ((1024, 1024), (1536, 1024))
"""What a picture may become where an upstream does not make the size that was asked for."""
_CELL, _LEAST, _MOST, _SIDE = 16, 655_360, 8_294_400, 3
"""Of the sizes that the gpt-image-2 models make: what both sides are multiples of, least and most pixels, longest shape."""
_PARTIALS = 3
_PARTIAL_TOKENS = 100
"""Each preview of a streamed picture costs so many output tokens."""
_BYTES_PER_TOKEN = (6, 2)
"""Of prompts: plain English, and what splits worst."""
_EXTRA_TEXT = 32
"""Tokens around a prompt."""


class Range(msgspec.Struct, frozen=True):
    """From and to."""

    low: float = 0.0
    high: float = 0.0

    def times(self, factor: float) -> "Range":
        """Both, so many times."""
        return Range(self.low * factor, self.high * factor)

    def plus(self, other: "Range") -> "Range":
        """Both, added."""
        return Range(self.low + other.low, self.high + other.high)


class Cost(msgspec.Struct, frozen=True):
    """What something did cost."""

    usd: float
    measured: bool
    """Whether it follows from what the upstream told; False: it is the upper end of the estimate."""


def cost(price: Price, usage: Usage, request: ImageRequest, quality: str | None = None) -> Cost:
    """What an upstream charged for all images of ``request``, by what it said of ``usage``."""
    if price.tokens is not None and (usage.output_tokens or usage.input_text_tokens or usage.input_image_tokens):
        tokens = price.tokens
        spent = usage.input_text_tokens * tokens.text_in + usage.input_image_tokens * tokens.image_in
        return Cost((spent + usage.output_tokens * tokens.image_out) / PER, measured=True)
    if price.per_second is not None and usage.gpu_seconds > 0:
        return Cost(usage.gpu_seconds * price.per_second, measured=True)
    found = estimate(price, request, quality)
    return Cost(found.high, measured=found.low == found.high)


def estimate(price: Price, request: ImageRequest, quality: str | None = None) -> Range:
    """What an upstream will charge for all images of ``request``; a quality that is not told may turn out to be any."""
    images = len(request.seeds)
    if price.per_second is not None and price.tokens is None and price.per_image is None and price.credits is None:
        seconds = price.seconds or (0.0, 0.0)
        return Range(*seconds).times(price.per_second * images)
    if price.credits is not None:
        usd = price.credits * price.credit_usd * images
        return Range(usd, usd)
    single = Range()
    if price.image_tokens is not None and price.tokens is not None:
        single = _tokens_out(price.image_tokens, request, quality).times(price.tokens.image_out / PER)
    elif price.per_image is not None:
        single = _figure(price.per_image, request, quality)
    return single.times(images).plus(_inputs(price, request))


def pixel_steps(request: ImageRequest) -> float:
    """The work of ``request``: pixels times network evaluations, over all its images and passes."""
    sampling = request.sampling
    each = 2 if sampling.guided else 1
    strength = 1.0 if request.init is None else request.init.strength
    total = request.width * request.height * each * _run(sampling.steps, strength)
    if request.hires is not None:
        steps = _run(request.hires.steps or sampling.steps, request.hires.strength)
        total += request.hires.width * request.hires.height * each * steps
    if request.upscale is not None and request.upscale.tiles is not None:
        tiles = request.upscale.tiles
        count = math.prod(
            max(1, math.ceil((side - tiles.overlap) / (tiles.size - tiles.overlap)))
            for side in (request.upscale.width, request.upscale.height)
        )
        total += tiles.size**2 * count * each * _run(sampling.steps, tiles.strength)
    return float(total * len(request.seeds))


def local_cost(money: LocalMoney, request: ImageRequest, gpu_seconds: float, device: str = "") -> float:
    """What our own workers' ``gpu_seconds`` for ``request`` are worth: by the model's own price, or by the device's time."""
    own = money.per_megapixel_step.get(request.model)
    if own is not None:
        return own * pixel_steps(request) / PER
    return money.devices.get(device, money.gpu_hour_usd) * gpu_seconds / SECONDS_PER_HOUR


def _run(steps: int, strength: float) -> int:
    return max(1, round(steps * strength)) if strength > 0 else 0


def _inputs(price: Price, request: ImageRequest) -> Range:
    """Prompt, input pictures and previews."""
    if price.tokens is None:
        return Range()
    length = len(request.styled_prompt.encode())
    text = Range(math.ceil(length / _BYTES_PER_TOKEN[0]), math.ceil(length / _BYTES_PER_TOKEN[1]) + _EXTRA_TEXT)
    pictures = sum(len(use.pictures) for use in request.references) + (request.init is not None)
    seen = Range(*price.input_image_tokens).times(pictures)
    previews = Range(0.0, _PARTIALS * _PARTIAL_TOKENS if request.preview_every else 0.0)
    parts = (
        text.times(price.tokens.text_in),
        seen.times(price.tokens.image_in),
        previews.times(price.tokens.image_out),
    )
    return Range(sum(part.low for part in parts) / PER, sum(part.high for part in parts) / PER)


def _tokens_out(known: str | Mapping[str, float | BySize], request: ImageRequest, quality: str | None) -> Range:
    if isinstance(known, Mapping):
        return _figure(known, request, quality)
    factors = [_FACTORS[quality]] if quality in _FACTORS else _FACTORS.values()
    size = request.finished_size
    sizes = {size} if _free(*size) else {size, *_STANDARD}
    return _span(grid(factor, *size) for factor in factors for size in sizes)


def _free(width: int, height: int) -> bool:
    """Whether the gpt-image-2 models make a picture of just that size."""
    fine = width % _CELL == 0 and height % _CELL == 0 and _LEAST <= width * height <= _MOST
    return fine and max(width, height) <= _SIDE * min(width, height)


def grid(factor: int, width: int, height: int) -> int:
    """Output tokens of one picture of the gpt-image-2 models: the community's reading of OpenAI's calculator."""
    shorter = max(1, round(factor * min(width, height) / max(width, height)))
    return math.ceil(factor * shorter * (2_000_000 + width * height) / 4_000_000)


def _figure(figures: float | Mapping[str, float | BySize], request: ImageRequest, quality: str | None) -> Range:
    """The figures that ``quality`` and the size of ``request`` leave possible."""
    if not isinstance(figures, Mapping):
        return Range(figures, figures)
    chosen = [figures[quality]] if quality is not None and quality in figures else list(figures.values())
    width, height = request.finished_size
    possible: list[float] = []
    for each in chosen:
        if not isinstance(each, Mapping):
            possible.append(each)
            continue
        exact = each.get(f"{width}x{height}", each.get(f"{height}x{width}"))
        possible += [exact] if exact is not None else each.values()
    return _span(possible)


def _span(values: Iterable[float]) -> Range:
    found = tuple(values)
    return Range(min(found), max(found))
