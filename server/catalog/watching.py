"""Notices when what a path leads to has changed, however it was changed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from watchfiles import awatch

POLL_SECONDS = 0.5
"""How often to look without being told to: network folders, bind mounts and links further up the path tell nothing."""
SETTLE_SECONDS = 0.1
"""A file that has stood still for so long is taken to be written."""
_MOST_WAITS = 10
"""A file that never stands still is read all the same."""
_MOST_LINKS = 40

Mark = tuple[int, int, int, int]
"""Device, inode, time of the last change in nanoseconds, size."""


def mark(path: Path) -> Mark | None:
    """What tells one state of the file at the end of ``path`` from another; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


async def changes(path: Path, seen: Mark | None) -> AsyncGenerator[None, None]:
    """Yields each time the file behind ``path`` differs from before and has stood still; ``seen`` is what is known already.

    Writing in place, in several steps, replacing by rename, deleting and making anew, and swapping a link (Kubernetes' ..data)
    are all noticed within `POLL_SECONDS` and a little, usually at once.
    """
    async with aclosing(_wakes(path)) as wakes:
        async for _ in wakes:
            now = mark(path)
            if now == seen:
                continue
            for _wait in range(_MOST_WAITS):
                await asyncio.sleep(SETTLE_SECONDS)
                before, now = now, mark(path)
                if now == before:
                    break
            if now != seen:
                seen = now
                yield


async def _wakes(path: Path) -> AsyncGenerator[None, None]:
    """A reason to look again: something happened in one of the folders concerned, or some time has passed."""
    while True:
        try:
            folders = _folders(path)
            events = awatch(
                *folders,
                watch_filter=None,
                debounce=200,
                step=50,
                rust_timeout=int(POLL_SECONDS * 1000),
                yield_on_timeout=True,
                recursive=False,
            )
            async with aclosing(events):
                async for _ in events:
                    yield
                    if _folders(path) != folders:
                        break
        except (OSError, RuntimeError):
            # No folder, a link that is just being swapped, or no more watches in this system: looking by the clock has to do.
            await asyncio.sleep(POLL_SECONDS)
            yield


def _folders(path: Path) -> tuple[Path, ...]:
    """The folders of the file and of every link on the way to it."""
    hops = [path]
    while hops[-1].is_symlink() and len(hops) < _MOST_LINKS:
        hops.append(hops[-1].parent / hops[-1].readlink())
    return tuple(dict.fromkeys(hop.parent for hop in hops if hop.parent.is_dir()))
