"""Work on bytes that must not hold up the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LITTLE = 64 * 1024
"""Bytes that are gone through in less time than it takes to ask a thread."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """What ``work`` gives, which goes once or twice through ``size`` bytes: in a thread, unless there are too few to ask one."""
    return work() if size <= LITTLE else await asyncio.to_thread(work)
