"""OpenAI's moderation endpoint: prompts and pictures are shown to it, where a tenant's policy says so."""

import asyncio
import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.contract.picture import Picture
from server.domain.clock import Clock
from server.domain.failures import ModerationUnavailable
from server.domain.verdict import OWN, Category
from server.gateway.moderation.classifier import Scores, image_of

if TYPE_CHECKING:
    import httpx

MODEL = "omni-moderation-latest"
_SIDE = 1024
_AT_ONCE = 16
_MOST_TEXTS = 16
"""Of the texts that a prompt becomes over its steps."""
_FAILURES, _REST_SECONDS = 3, 30.0


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}


class _Body(msgspec.Struct, frozen=True):
    results: tuple[_Result, ...]


class Circuit:
    """Stops asking for a while after several failures in a row; then one question tries whether it is over."""

    __slots__ = ("_clock", "_failures", "_until")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether nobody may ask."""
        return self._failures >= _FAILURES and self._clock.monotonic() < self._until

    def begin(self) -> None:
        """Somebody asks: while it is not known whether the trouble is over, nobody else does."""
        if self._failures >= _FAILURES:
            self._until = self._clock.monotonic() + _REST_SECONDS

    def end(self, *, ok: bool) -> None:
        """There was an answer, or none."""
        self._failures = 0 if ok else self._failures + 1
        if self._failures >= _FAILURES:
            self._until = self._clock.monotonic() + _REST_SECONDS


class OpenAIModeration:
    """The endpoint at ``url``; one try for each question, within the policy's time."""

    __slots__ = ("_circuit", "_client", "_key", "_slots", "_url")

    name = "openai"

    def __init__(self, key: str | None, url: str, clock: Clock) -> None:
        """Without a ``key`` nothing is ever sent."""
        self._key, self._url = key, url.rstrip("/")
        self._circuit = Circuit(clock)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._client: httpx.AsyncClient | None = None

    @property
    def problem(self) -> str | None:
        """No key, or too many failures a moment ago."""
        if self._key is None:
            return "There is no key for OpenAI's moderation endpoint: set OPENAI_API_KEY or AQUATINT_MODERATION_KEY."
        return "OpenAI's moderation endpoint fails; it is left alone for a while." if self._circuit.open else None

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
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, asked: list[Any], seconds: float) -> Scores:
        if not asked:
            return {}
        if self.problem is not None:
            raise ModerationUnavailable(self.problem, retry_after=_REST_SECONDS)
        self._circuit.begin()
        try:
            async with asyncio.timeout(seconds), self._slots:
                results = await self._post({"model": MODEL, "input": asked})
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._circuit.end(ok=False)
            # What it says may repeat the prompt: only its kind is told.
            why = f"no answer within {seconds:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            msg = f"OpenAI's moderation endpoint gave no answer: {why}."
            raise ModerationUnavailable(msg) from error
        self._circuit.end(ok=True)
        return merged(results)

    async def _post(self, body: Mapping[str, Any]) -> tuple[_Result, ...]:
        import httpx  # noqa: PLC0415 - takes time to import, and most servers never ask

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=_AT_ONCE))  # noqa: S113 - see _ask
        answer = await self._client.post(
            f"{self._url}/moderations", json=body, headers={"Authorization": f"Bearer {self._key}", "User-Agent": "aquatint"}
        )
        if answer.status_code != httpx.codes.OK:
            msg = f"status {answer.status_code}"
            raise OSError(msg)
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
