"""Deletes files that are doomed, then their rows: what a step could not do, or a death has cut off, the next one does."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from server.domain.failures import StorageFailure
from server.storage.bucket import Bucket

AT_ONCE = 256
"""Rows of one transaction."""

ROUNDS = 40
"""Of each kind in one run: about ten thousand files; the next run goes on."""

GRACE = 3600.0
"""Seconds after which a file that was being written is not waited for: far beyond what obstore tries for."""

_IN_A_ROW = 8
"""Files that cannot be deleted, one after the other: then the place is away, and a run ends; the next one begins behind them."""


class Collected(msgspec.Struct, frozen=True):
    """What one run has done."""

    assets: int = 0
    uploads: int = 0
    files: int = 0
    bytes: int = 0
    failed: int = 0
    """Files that could not be deleted; they are tried again."""

    def __add__(self, other: "Collected") -> "Collected":
        """Both."""
        return Collected(*(mine + theirs for mine, theirs in zip(_numbers(self), _numbers(other), strict=True)))


def _numbers(done: Collected) -> tuple[int, ...]:
    return (done.assets, done.uploads, done.files, done.bytes, done.failed)


class File(Protocol):
    """A row with a file."""

    @property
    def path(self) -> str:
        """Never used twice."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...


F = TypeVar("F", bound=File)


class Sweeper(Generic[F]):
    """Sweeps one kind of files; several servers may at the same time, as a file may be deleted twice."""

    __slots__ = ("_behind", "_bucket", "_doomed", "_forget")

    def __init__(
        self,
        bucket: Bucket,
        doomed: Callable[[int, F | None], Awaitable[Sequence[F]]],
        forget: Callable[[Sequence[F]], Awaitable[None]],
    ) -> None:
        """``doomed`` gives up to so many that are behind the other, in some order; ``forget`` deletes their rows."""
        self._bucket, self._doomed, self._forget = bucket, doomed, forget
        self._behind: F | None = None
        """The last one that was tried, while there are more behind it."""

    async def sweep(self, closing: Callable[[], bool]) -> Collected:
        """Go on from where the last run has stopped: none that stays keeps others waiting. Ends early when ``closing``."""
        files = size = failed = in_a_row = 0
        for _ in range(ROUNDS):
            doomed, gone = await self._doomed(AT_ONCE, self._behind), list[F]()
            for file in doomed:
                self._behind = file
                if await deleted(self._bucket, file.path):
                    gone.append(file)
                    in_a_row = 0
                    continue
                failed, in_a_row = failed + 1, in_a_row + 1
                if in_a_row == _IN_A_ROW:
                    break
            await self._forget(gone)
            files, size = files + len(gone), size + sum(file.bytes for file in gone)
            if in_a_row == _IN_A_ROW:
                break
            if len(doomed) < AT_ONCE:
                self._behind = None
                break
            if closing():
                break
        return Collected(files=files, bytes=size, failed=failed)


async def deleted(bucket: Bucket, path: str) -> bool:
    """Whether the file is gone; the bucket has said in the log what is wrong if not."""
    try:
        await bucket.delete(path)
    except StorageFailure:
        return False
    return True


async def rounds(step: Callable[[], Awaitable[int]], closing: Callable[[], bool]) -> int:
    """What the steps have done together: one after the other, until one has less to do than it may, or it has been enough."""
    total = 0
    for _ in range(ROUNDS):
        count = await step()
        total += count
        if count < AT_ONCE or closing():
            break
    return total
