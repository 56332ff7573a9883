"""Whether this is the only server on a folder of state."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def first_at(folder: Path) -> Iterator[bool]:
    """True if no other living process is inside this block for ``folder``: what was begun there was begun by dead ones."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "server.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
