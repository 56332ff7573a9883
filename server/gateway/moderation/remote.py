"""OpenAI's moderation endpoint: prompts and pictures are shown to it, where a tenant's policy says so."""

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.contract.picture import Picture
from server.domain.clock import Clock
from server.domain.failures import ModerationUnavailable, UpstreamUnavailable
from server.domain.verdict import OWN, Category
from server.gateway.moderation.classifier import Scores, image_of
from server.providers.breaker import Breaker, State

if TYPE_CHECKING:
    import httpx

MODEL = "omni-moderation-latest"
_SIDE = 1024
_AT_ONCE = 16
_MOST_TEXTS = 16
"""Of the texts that a prompt becomes over its steps."""
_OF_THE_QUESTION = frozenset({400, 413, 422})
"""Statuses that another question need not get."""
_MOST_BREAKERS = 64


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}


class _Body(msgspec.Struct, frozen=True):
    results: tuple[_Result, ...]


class _Refused(OSError):
    """It was answered, and what was asked was not liked: that says nothing about the next question."""


class OpenAIModeration:
    """The endpoint at ``url``; one try for each question, within the policy's time.

    All tenants ask the same address with the same key. What differs is how long they wait: each patience has a circuit of its
    own, as who hears nothing within a tenth of a second knows nothing of what another would hear within five.
    """

    __slots__ = ("_breakers", "_client", "_clock", "_key", "_probes", "_slots", "_url")

    name = "openai"

    def __init__(self, key: str | None, url: str, clock: Clock) -> None:
        """Without a ``key`` nothing is ever sent."""
        self._key, self._url, self._clock = key, url.rstrip("/"), clock
        self._breakers: OrderedDict[float, Breaker] = OrderedDict()
        self._probes: set[asyncio.Task[Scores]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._client: httpx.AsyncClient | None = None

    @property
    def problem(self) -> str | None:
        """No key, or too many failures a moment ago."""
        if self._key is None:
            return "There is no key for OpenAI's moderation endpoint: set OPENAI_API_KEY or AQUATINT_MODERATION_KEY."
        resting = any(breaker.state is State.OPEN for breaker in self._breakers.values())
        return "OpenAI's moderation endpoint fails; it is left alone for a while." if resting else None

    async def read(self, texts: Sequence[str], seconds: float) -> Scores:
        """What is to be objected to in ``texts``; raises `ModerationUnavailable`."""
        step = max(1, -(-len(texts) // _MOST_TEXTS))
        return await self._ask([text for text in texts[::step] if text.strip()], seconds)

    async def look(self, picture: Picture, seconds: float) -> Scores:
        """What is to be objected to in ``picture``; raises `ModerationUnavailable`."""
        url = await asyncio.to_thread(_data_url, picture)
        return await self._ask([{"type": "image_url", "image_url": {"url": url}}], seconds)

    async def close(self) -> None:
        """Hang up."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, asked: list[Any], seconds: float) -> Scores:
        if not asked:
            return {}
        if self._key is None:
            raise ModerationUnavailable(self.problem or "")
        breaker = self._breaker(seconds)
        try:
            probing = breaker.admit()
        except UpstreamUnavailable as error:
            raise ModerationUnavailable(error.message, retry_after=error.retry_after) from error
        if not probing:
            return await self._answered(breaker, asked, seconds, probe=False)
        # Other questions of the same request are refused meanwhile, which ends the request: what is found out here must not go
        # with it, or nobody would ever find out.
        probe = asyncio.create_task(self._answered(breaker, asked, seconds, probe=True))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)
        return await asyncio.shield(probe)

    async def _answered(self, breaker: Breaker, asked: list[Any], seconds: float, *, probe: bool) -> Scores:
        sent = False
        try:
            async with asyncio.timeout(seconds), self._slots:
                sent = True
                results = await self._post({"model": MODEL, "input": asked})
        except Exception as error:
            if isinstance(error, _Refused):
                breaker.succeeded(probe=probe)
            elif sent:
                breaker.failed(probe=probe)
            else:
                # It waited for a place behind others of this server.
                breaker.left(probe=probe)
            # What it says may repeat the prompt: only its kind is told.
            why = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            msg = f"OpenAI's moderation endpoint gave no answer: {why}."
            raise ModerationUnavailable(msg) from error
        except BaseException:
            breaker.left(probe=probe)
            raise
        breaker.succeeded(probe=probe)
        return merged(results)

    def _breaker(self, seconds: float) -> Breaker:
        found = self._breakers.get(seconds)
        if found is None:
            found = self._breakers[seconds] = Breaker("openai moderation", self._clock)
            if len(self._breakers) > _MOST_BREAKERS:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(seconds)
        return found

    async def _post(self, body: Mapping[str, Any]) -> tuple[_Result, ...]:
        import httpx  # noqa: PLC0415 - takes time to import, and most servers never ask

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=_AT_ONCE))  # noqa: S113 - see _ask
        answer = await self._client.post(
            f"{self._url}/moderations", json=body, headers={"Authorization": f"Bearer {self._key}", "User-Agent": "aquatint"}
        )
        if answer.status_code != httpx.codes.OK:
            msg = f"status {answer.status_code}"
            raise (_Refused if answer.status_code in _OF_THE_QUESTION else OSError)(msg)
        try:
            results = msgspec.json.decode(answer.content, type=_Body).results
        except msgspec.MsgspecError:
            results = ()
        if not results:
            msg = "an answer of an unknown form"
            raise OSError(msg)
        return results


def merged(results: Sequence[_Result]) -> Scores:
    """What any of ``results`` flags, each category with its highest score."""
    found: dict[str, float] = {}
    for result in results:
        flagged = [name for name, yes in result.categories.items() if yes] if result.flagged else []
        for name in flagged or ([OWN] if result.flagged else []):
            score = result.category_scores.get(name)
            known = _known(name)
            found[known] = max(found.get(known, 0.0), 1.0 if score is None else min(max(score, 0.0), 1.0))
    return found


def _known(name: str) -> str:
    """``name``, or of one that came up later the part that is known."""
    names = {category.value for category in Category}
    return next((each for each in (name, name.partition("/")[0]) if each in names), OWN)


def _data_url(picture: Picture) -> str:
    target = io.BytesIO()
    image_of(picture, _SIDE).save(target, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
