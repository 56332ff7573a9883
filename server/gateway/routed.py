"""Carries a plan out: the first road, and if it cannot, the next one that may and can."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError
from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog
from server.catalog.routing import Chain, Routing, entry
from server.domain.call import Call
from server.domain.failures import UpstreamMisconfigured
from server.domain.generation import AUTO, LOCAL, WORDS_MISSING, Attempt, Generation, Route, Usage
from server.gateway.legible import missing
from server.gateway.ocr import Reader
from server.gateway.retarget import Retargeted, retargeted
from server.gateway.routable import Road
from server.gateway.routing import Facts, Plan, Question, decide, may_follow
from server.gateway.text_intent import UNASKED, TextNeed, text_intent
from server.providers.received import opened
from server.telemetry.metrics import Metrics

_MADE = "made"


class Explained(msgspec.Struct, frozen=True):
    """What would be done with a request, and why."""

    need: TextNeed
    plan: Plan
    facts: tuple[Facts, ...]
    """Of every road, our own workers first."""
    rules: Routing


class Routed:
    """A provider over several roads."""

    __slots__ = ("_catalog", "_local", "_log", "_metrics", "_reader", "_upstreams")

    def __init__(
        self,
        local: Road,
        upstreams: Callable[[], Iterable[Road]],
        catalog: Callable[[], Catalog],
        *,
        reader: Reader,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        """``upstreams`` are asked for at each request, the preferred ones first; so is the ``catalog`` in force."""
        self._local, self._upstreams, self._catalog = local, upstreams, catalog
        self._reader, self._metrics, self._log = reader, metrics, log

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` on the road that its plan begins with, or on one after it; the result says which and why.

        Raises the error of the first road that may be tried again later, or else of the first road.
        """
        catalog = self._catalog()
        need = self._need(request, call) if call.road == AUTO else UNASKED
        return await self._carried_out(request, call, catalog, self._explained(request, call, catalog, need))

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """Our own workers': upstreams do not tell."""
        return self._local.wait_seconds(pixel_steps)

    def explain(self, request: ImageRequest, call: Call) -> Explained:
        """What would be done with ``request``; nothing is."""
        return self._explained(request, call, self._catalog(), self._need(request, call))

    def _need(self, request: ImageRequest, call: Call) -> TextNeed:
        return text_intent(request.prompt, _negative(request, call))

    def _explained(self, request: ImageRequest, call: Call, catalog: Catalog, need: TextNeed) -> Explained:
        rules = catalog.policy(call.tenant).routing
        roads = {road.name: road for road in self._upstreams()}
        if call.road not in (LOCAL, AUTO, *roads):
            msg = f"There is no upstream {call.road!r} in models.yaml any more, or it has no key."
            raise UpstreamMisconfigured(msg)
        chain = rules.fallback if rules.fallback is not None else catalog.fallback(request.model)
        work = request.width * request.height * request.sampling.steps * len(request.seeds)
        wait = self._local.wait_seconds(work)
        local = replace(self._facts_of_local(request, call, catalog, ""), wait_seconds=wait)
        others = (
            *(
                Facts(name, "", road.lacking(request, call), road.wait_seconds(work), barred=_barred(call, name))
                for name, road in roads.items()
            ),
            *(replace(self._facts_of_local(request, call, catalog, model), wait_seconds=wait) for model in _models(chain)),
        )
        plan = decide(Question(call, need, rules, local, others, chain, self._reader.available))
        return Explained(need, plan, (local, *others), rules)

    async def _carried_out(self, request: ImageRequest, call: Call, catalog: Catalog, known: Explained) -> Generation:
        plan, tried, errors = known.plan, list[Attempt](), list[AquatintError]()
        kept: Generation | None = None
        for step in plan.steps:
            if not all(may_follow(error, step, known.rules) for error in errors):
                continue
            try:
                made = await self._take(step, request, call, catalog)
            except AquatintError as error:
                self._failed(step, error, call)
                errors.append(error)
                tried.append(Attempt(step.label, error.code, error.message))
                continue
            lost = await self._missing(made, known.need.literals) if plan.verify and step is plan.steps[0] else ()
            if lost:
                self._metrics.routed(step.road, WORDS_MISSING)
                kept = _told(made, step, plan.reasons, tried)
                tried.append(Attempt(step.label, WORDS_MISSING, f"OCR does not find {_quoted(lost)} in the picture."))
                continue
            self._metrics.routed(step.road, _MADE)
            return _told(made, step, plan.reasons, tried, spent=None if kept is None else kept.usage)
        if kept is not None:
            reasons = (*plan.reasons, "OCR does not find the words, and no other road made it: the first picture is returned")
            return replace(kept, route=replace(kept.route, reasons=reasons, tried=tuple(tried)))
        raise _worst(errors)

    async def _take(self, step: Facts, request: ImageRequest, call: Call, catalog: Catalog) -> Generation:
        if step.road == LOCAL:
            if (other := _other(request, call, catalog, step.model)) is not None:
                request = other.request
                call = replace(call, cards=catalog.needed(request))
            return await self._local.generate(request, replace(call, road=LOCAL))
        road = next((each for each in self._upstreams() if each.name == step.road), None)
        if road is None:
            msg = f"The upstream {step.road!r} is gone."
            raise UpstreamMisconfigured(msg)
        return await road.generate(request, replace(call, road=step.road))

    async def _missing(self, made: Generation, literals: Sequence[str]) -> tuple[str, ...]:
        """Those of the words that one of the pictures lacks."""
        for picture in made.pictures:
            try:
                lines = await self._reader.read(await asyncio.to_thread(opened, picture))
            except Exception:  # noqa: BLE001 - whatever a third party makes of a picture
                # The picture is there; that it cannot be read is no reason to pay for another.
                self._log.exception("a result cannot be read")
                return ()
            # A page of text against long literals takes up to a second.
            if lost := await asyncio.to_thread(missing, literals, lines):
                return lost
        return ()

    def _failed(self, step: Facts, error: AquatintError, call: Call) -> None:
        self._metrics.routed(step.road, error.code)
        self._log.warning("a road failed", job=call.id, road=step.label, code=error.code, error=error.message)

    def _facts_of_local(self, request: ImageRequest, call: Call, catalog: Catalog, model: str) -> Facts:
        other = _other(request, call, catalog, model)
        lacking = self._local.lacking(request, call) if other is None else other.lacking
        taken = request if other is None else other.request
        return Facts(LOCAL, model, lacking, barred=any(_barred(call, name) for name in taken.models))


def _other(request: ImageRequest, call: Call, catalog: Catalog, model: str) -> Retargeted | None:
    """``request`` for another model of ours than its own, the default one if ``model`` names none; None if it is its own."""
    own = next((card for card in call.cards if card.id == request.model), None) or catalog.cards.get(request.model)
    if call.road in (LOCAL, AUTO) and model in ("", request.model):
        return None
    card = catalog.card(model or None)
    return retargeted(request, call.wishes, card.family if own is None else own.family, card)


def _barred(call: Call, name: str) -> bool:
    """Whether the caller's key may not use that model or upstream. What it has named was looked at when it came."""
    allowed = call.wishes.allowed
    return bool(allowed) and name != call.road and name not in allowed


def _models(chain: Chain | None) -> list[str]:
    """Other models of ours that a chain names."""
    found = [entry(text) for text in chain or ()]
    return list(dict.fromkeys(model for road, model in found if road == LOCAL and model))


def _negative(request: ImageRequest, call: Call) -> str:
    """What the caller refuses; the words that a card brings along are the same for every picture."""
    own = next((card for card in call.cards if card.id == request.model), None)
    usual = "" if own is None else own.defaults.negative_prompt
    return "" if request.negative_prompt == usual else request.negative_prompt


def _told(
    made: Generation, step: Facts, reasons: tuple[str, ...], tried: Sequence[Attempt], *, spent: Usage | None = None
) -> Generation:
    inner = made.route
    before = tuple(tried)
    fallen = (f"{before[-1].road} could not: {before[-1].code}",) if before else ()
    route = Route(
        step.road, inner.model or made.model, (*reasons, *fallen, *inner.reasons), (*before, *inner.tried), inner.request_ids
    )
    return replace(made, route=route, usage=made.usage if spent is None else _sum(spent, made.usage))


def _sum(one: Usage, other: Usage) -> Usage:
    """Both roads were paid for."""
    return Usage(*(a + b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)))


def _worst(errors: Sequence[AquatintError]) -> AquatintError:
    """The one that the caller hears of, with what else was tried in its notes."""
    told = next((error for error in errors if error.retryable), errors[0])
    for error in errors:
        if error is not told:
            told.add_note(f"another road: {error.code}: {error.message}")
    return told


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f"“{word}”" for word in words)
