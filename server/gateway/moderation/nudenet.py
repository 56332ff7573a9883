"""The local image classifier: NudeNet, at work in a process of its own, so that neither its memory nor its faults are ours."""

import asyncio
import contextlib
import importlib.util
import io
import sys

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.picture import Picture
from server.domain.clock import Clock
from server.domain.failures import ModerationUnavailable
from server.domain.verdict import Category
from server.gateway.moderation.classifier import Scores, image_of

EXPOSED = frozenset(
    {
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
    }
)
"""Its classes that count as ``sexual``; it knows of covered parts, bellies, feet and faces, too."""

_SIDE = 640
"""Pixels along a side of what it is shown: twice what its network sees."""
_START_SECONDS, _PICTURE_SECONDS, _REST_SECONDS = 60.0, 30.0, 30.0
_LINE = 1 << 20


class _Answer(msgspec.Struct, frozen=True):
    found: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    ready: bool = False


class NudeNet:
    """Pictures one by one, in the order in which they come; the process starts with the first, and again after a fault."""

    __slots__ = ("_child", "_clock", "_command", "_fault", "_library", "_log", "_owed", "_rests", "_turn")

    name = "nudenet"

    def __init__(
        self,
        clock: Clock,
        log: FilteringBoundLogger,
        command: tuple[str, ...] = (sys.executable, "-m", "server.gateway.moderation.detector"),
        *,
        library: str = "nudenet",
    ) -> None:
        """``command`` answers as `server.gateway.moderation.detector` does, and needs ``library``."""
        self._library = library
        self._clock, self._log, self._command = clock, log, command
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._owed = 0
        """Answers that are still to come; those to questions that nobody waits for any more are thrown away."""
        self._fault: str | None = None
        self._rests = 0.0

    @property
    def installed(self) -> bool:
        """Whether its extra is there."""
        return importlib.util.find_spec(self._library) is not None

    @property
    def problem(self) -> str | None:
        """Not installed, or resting after a fault."""
        if not self.installed:
            return "The image classifier is not installed: pip install 'aquatint[moderation]'."
        return self._fault if self._clock.monotonic() < self._rests else None

    async def classify(self, picture: Picture) -> Scores:
        """What is exposed in ``picture``; raises `ModerationUnavailable`."""
        if self.problem is not None:
            raise ModerationUnavailable(self.problem, retry_after=_REST_SECONDS)
        data = await asyncio.to_thread(_file, picture)
        async with self._turn:
            try:
                answer = await self._ask(data)
            except (OSError, EOFError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
                await self._stop()
                self._rest(f"{type(error).__name__}: {error}")
                raise ModerationUnavailable(self._fault or "", retry_after=_REST_SECONDS) from error
        if answer.error is not None:
            msg = f"The image classifier cannot read the picture: {answer.error}"
            raise ModerationUnavailable(msg)
        return scores(answer.found)

    async def close(self) -> None:
        """End its process."""
        await self._stop()

    async def _ask(self, data: bytes) -> _Answer:
        child = await self._started()
        async with asyncio.timeout(_PICTURE_SECONDS):
            if child.stdin is None:
                raise EOFError
            child.stdin.write(len(data).to_bytes(4, "big") + data)
            self._owed += 1
            await child.stdin.drain()
            while True:
                answer = await _line(child)
                self._owed -= 1
                if self._owed == 0:
                    return answer

    async def _started(self) -> asyncio.subprocess.Process:
        if self._child is not None and self._child.returncode is None:
            return self._child
        pipe = asyncio.subprocess.PIPE
        # A session of its own keeps a terminal's Ctrl+C away from it: it leaves when we hang up.
        self._child = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, limit=_LINE, start_new_session=True
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                said = await _line(self._child)
        except asyncio.CancelledError:
            await self._stop()
            raise
        if not said.ready:
            raise EOFError(said.error or "it does not start")
        self._log.info("image classifier started", classifier=self.name, pid=self._child.pid)
        return self._child

    async def _stop(self) -> None:
        child, self._child, self._owed = self._child, None, 0
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())

    def _rest(self, why: str) -> None:
        self._fault = f"The image classifier failed ({why}); it is tried again within {_REST_SECONDS:g} s."
        self._rests = self._clock.monotonic() + _REST_SECONDS
        self._log.warning("image classifier failed", classifier=self.name, error=why)


def scores(found: tuple[tuple[str, float], ...]) -> Scores:
    """NudeNet's classes in OpenAI's: the surest part that is exposed is ``sexual``."""
    exposed = [score for label, score in found if label in EXPOSED]
    return {Category.SEXUAL.value: max(exposed)} if exposed else {}


def _file(picture: Picture) -> bytes:
    target = io.BytesIO()
    image_of(picture, _SIDE).save(target, "BMP")
    return target.getvalue()


async def _line(child: asyncio.subprocess.Process) -> _Answer:
    if child.stdout is None:
        raise EOFError
    line = await child.stdout.readline()
    if not line:
        msg = "it has died"
        raise EOFError(msg)
    return msgspec.json.decode(line, type=_Answer)
