"""Holds that no budget can refuse, and what came of them: written down a moment later, and many in one transaction.

Each is a row of the ledger before it is ended by a later transaction. So a transaction of which nobody knows whether it happened
is tried again as it was: what it has written is there, what it has ended is gone, and nothing counts twice.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator

from structlog.typing import FilteringBoundLogger

from server.domain.spending import Charge, Hold, Ledger

GATHER_SECONDS = 0.25
"""Changes gather for so long; `kill -9` forgets those of the last such while."""
MOST = 8192
"""Holds that have ended and wait while the database takes nothing; beyond it the oldest are given up."""
_AT_ONCE = 256
_TRIES = 5
"""Of one change alone."""
_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class _Line:
    """A hold on the tab, and how far it has come."""

    __slots__ = ("charge", "ended", "hold", "strikes", "struck_at", "written")

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.charge: Charge | None = None
        self.ended = False
        """Its request is over: ``charge`` came of it, or nothing."""
        self.written = False
        """Its row is there."""
        self.strikes, self.struck_at = 0, 0
        """How often it could not be written alone; how much had been written when that first happened."""

    @property
    def due(self) -> bool:
        return self.ended or not self.written


class Tab:
    """Owns the holds that are on it."""

    __slots__ = (
        "_at_once",
        "_done",
        "_failed",
        "_hurried",
        "_hurry",
        "_lease",
        "_ledger",
        "_lines",
        "_log",
        "_most",
        "_owner",
        "_pause",
        "_turn",
        "_work",
    )

    def __init__(
        self, ledger: Ledger, owner: str, lease: Callable[[], float], log: FilteringBoundLogger, *, most: int = MOST
    ) -> None:
        """``lease`` tells until when holds of ``owner`` are kept that are written now; ``most`` changes wait."""
        self._ledger, self._owner, self._lease, self._log = ledger, owner, lease, log
        self._lines: dict[tuple[str, int, str], _Line] = {}
        self._most, self._at_once = most, _AT_ONCE
        self._done = self._failed = 0
        """Changes that were written, and how often a single one could not be."""
        self._hurry, self._hurried = asyncio.Event(), 0
        """Set while somebody waits, and how many do."""
        self._pause = 0.0
        """Before the next attempt, where the one before failed."""
        self._turn = asyncio.Event()
        """Set, and replaced, after each attempt."""
        self._work: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Hold]:
        return (line.hold for line in self._lines.values())

    async def open(self, hold: Hold) -> None:
        """Have ``hold`` written down soon; the same one twice counts once, unless it has ended in between."""
        line = self._lines.get(hold.key)
        if line is not None and line.ended:
            await self._until(lambda: self._lines.get(hold.key) is not line)
        if hold.key not in self._lines:
            self._lines[hold.key] = _Line(hold)
            self._wake()

    def close(self, hold: Hold, charge: Charge | None) -> bool:
        """Have written down soon what came of ``hold``, None for nothing; False if it is not on this tab."""
        line = self._lines.get(hold.key)
        if line is None:
            return False
        if not line.ended:
            line.ended, line.charge = True, charge
            self._wake()
        return True

    async def leave(self, hold: Hold) -> bool:
        """Let go of ``hold`` once it is written down, for the caller to end it; False if it could not be."""
        line = self._lines.get(hold.key)
        if line is None:
            return True
        try:
            await self._until(lambda: line.written)
        finally:
            self._lines.pop(hold.key, None)
        return line.written

    async def flush(self) -> None:
        """Return once all that has come before is written down, or cannot be for now."""
        wanted = [line for line in self._lines.values() if line.due]
        await self._until(lambda: not any(line.due and self._lines.get(line.hold.key) is line for line in wanted))

    async def stop(self) -> None:
        """Write down what can be; nothing happens from then on."""
        done = -1
        while done != self._done and any(line.due for line in self._lines.values()):
            done = self._done
            await self.flush()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        for line in list(self._lines.values()):
            if line.due:
                self._give_up(line)

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Return once it is ``reached``, or nothing is after several attempts."""
        enough = self._failed + _TRIES
        self._hurried += 1
        self._hurry.set()
        try:
            while not reached() and self._failed < enough and self._work is not None and not self._work.done():
                await self._turn.wait()
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._hurry.clear()

    def _wake(self) -> None:
        if self._work is None or self._work.done():
            # Of nobody's request: what is logged there must not bear the name of whoever came first.
            self._work = asyncio.create_task(self._write(), name="tab", context=contextvars.Context())

    async def _write(self) -> None:
        """Write down what is due until nothing is."""
        try:
            while due := await self._gathered():
                # What runs is not given up: who ends it is told whether it was written.
                for line in [line for line in due if line.ended][: -self._most]:
                    due.remove(line)
                    self._give_up(line)
                await self._attempt(due[: self._at_once])
                self._tell()
        finally:
            # Whoever waits for something that is nobody's any more is to see it.
            self._tell()

    async def _gathered(self) -> list[_Line]:
        """What is due, after the time for it to gather."""
        if self._pause:
            await asyncio.sleep(self._pause)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), GATHER_SECONDS)
        return [line for line in self._lines.values() if line.due]

    async def _attempt(self, lines: list[_Line]) -> None:
        if await self._keep(lines):
            self._pause, self._at_once = 0.0, min(_AT_ONCE, 2 * self._at_once)
        elif len(lines) > 1:
            # It may be one of them that nobody can write: the smaller the company, the fewer wait for it.
            self._pause, self._at_once = _PAUSE, len(lines) // 2
        else:
            self._pause = min(_LONGEST_PAUSE, 2 * max(self._pause, _PAUSE))
            self._strike(lines[0])

    def _tell(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()

    async def _keep(self, lines: list[_Line]) -> bool:
        """Whether one transaction could write ``lines`` down."""
        opened = [line for line in lines if not line.written]
        ended = [line for line in lines if line.written]
        try:
            await self._ledger.keep(
                [line.hold for line in opened],
                [(line.hold, line.charge) for line in ended],
                owner=self._owner,
                lease=self._lease(),
            )
        except Exception:  # noqa: BLE001 - whatever a database does, pictures are made and the operator hears of it
            self._log.exception("the books cannot be kept", holds=len(opened), charges=len(ended))
            return False
        for line in opened:
            line.written = True
        for line in ended:
            self._drop(line)
        self._done += len(lines)
        return True

    def _strike(self, line: _Line) -> None:
        """Let the others go before ``line``; one that fails again and again while others do not is no matter of the database."""
        self._failed += 1
        if not line.strikes:
            line.struck_at = self._done
        line.strikes += 1
        if self._lines.get(line.hold.key) is line:
            self._lines[line.hold.key] = self._lines.pop(line.hold.key)
        if line.ended and line.strikes >= _TRIES and self._done > line.struck_at:
            self._give_up(line)

    def _give_up(self, line: _Line) -> None:
        hold, usd = line.hold, line.charge.usage.usd if line.charge else 0.0
        # Nobody keeps its row alive any more: with its lease all that was held is counted.
        what = "what was spent is counted by its hold" if line.written else "what was spent is in no book"
        self._log.error(what, job=hold.job_id, upstream=hold.upstream, usd=usd, held_usd=hold.usd)
        self._drop(line)

    def _drop(self, line: _Line) -> None:
        if self._lines.get(line.hold.key) is line:
            del self._lines[line.hold.key]
