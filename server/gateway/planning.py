"""What a plan costs: images x variants x (1 + retries) x the price of one, on each road. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from pipelines.contract.request import ImageRequest
from server.catalog.prices import Prices
from server.catalog.pricing import SECONDS_PER_HOUR, Range, estimate, local_cost, pixel_steps
from server.domain.generation import LOCAL
from server.domain.spending import UsageRow


class Plan(msgspec.Struct, frozen=True):
    """How often something is made."""

    variants: int = 1
    retries: float = 0.0
    images_per_month: int | None = None

    @property
    def factor(self) -> float:
        """Pictures made for each one that is kept."""
        return self.variants * (1 + self.retries)


class Forecast(msgspec.Struct, frozen=True):
    """One road; None where nothing is known."""

    road: str
    model: str
    each: Range | None
    """US dollars for one picture."""
    gpu_seconds: float | None
    """Of our own devices, for one picture."""
    work: float | None
    """Seconds that one picture takes."""
    why: str | None = None


def forecasts(
    prices: Prices,
    request: ImageRequest,
    asked: Mapping[str, str],
    *,
    quality: str | None,
    rate: float | None,
    recent: Iterable[UsageRow],
) -> tuple[Forecast, ...]:
    """Every road's figures for one picture of ``request``.

    ``asked`` are the upstreams, with the model that each of them would be asked for. ``rate`` is the measured pace of a device in
    pixel-steps a second, ``recent`` what was used lately.
    """
    rows = list(recent)
    upstreams = (_upstream(prices, request, name, model, rows, quality=quality) for name, model in asked.items())
    return (_local(prices, request, rate, rows), *upstreams)


def _local(prices: Prices, request: ImageRequest, rate: float | None, rows: list[UsageRow]) -> Forecast:
    images = len(request.seeds)
    seconds = None if rate is None else pixel_steps(request) / images / rate
    if seconds is None:
        done = [row for row in rows if row.road == LOCAL and row.model == request.model]
        made = sum(row.images for row in done)
        seconds = sum(row.gpu_seconds for row in done) / made if made else None
    by_work = request.model in prices.local.per_megapixel_step
    if seconds is None and not by_work:
        return Forecast(LOCAL, request.model, None, None, None, "Nothing has been measured yet: make a picture first.")
    usd = local_cost(prices.local, request, (seconds or 0.0) * images) / images
    free = usd == 0 and not by_work
    why = "What a GPU hour costs is not said: set 'server: {prices: {gpu_hour_usd: ...}}' in models.yaml." if free else None
    return Forecast(LOCAL, request.model, None if free else Range(usd, usd), seconds, seconds, why)


def _upstream(
    prices: Prices, request: ImageRequest, name: str, model: str, rows: list[UsageRow], *, quality: str | None
) -> Forecast:
    price = prices.price(name, model)
    done = [row for row in rows if row.road == name]
    made = sum(row.images for row in done)
    work = sum(row.seconds for row in done) / made if made else None
    if price is None:
        return Forecast(name, model, None, None, work, f"No price is known for {model!r}; add it under 'prices' in models.yaml.")
    each = estimate(price, request, quality).times(1 / len(request.seeds))
    return Forecast(name, model, each, None, work)


def gpu_hours(forecast: Forecast, images: float) -> float | None:
    """How long our own devices are busy with ``images``."""
    return None if forecast.gpu_seconds is None else forecast.gpu_seconds * images / SECONDS_PER_HOUR
