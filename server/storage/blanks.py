"""Rows of files that are still to come: set aside before anybody knows what will be in them, so that no answer waits for its own.

A file lies where its row says, whatever is in it; what that is, the row is told once the file is whole. Those that are never
used are taken back at the end, or given up like any whose writing did not end.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

from server.domain.asset import Format
from server.domain.clock import Clock
from server.domain.stored import Blob
from server.storage.assets import path_of

AT_HAND = 16
"""For each kind of file that somebody waited for a moment ago."""
KINDS = 32
"""Tenants times formats; beyond it those that nobody has asked for longest are forgotten."""
SEEN = 16_384
"""Contents that are remembered: the same ones come soon again, or hardly ever."""
SECONDS = 600.0
"""Older ones are not used: their time to be given up might come."""


class Reserving(Protocol):
    """A repository that has rows of files before anybody knows what is in them."""

    async def reserve(self, blobs: Sequence[Blob]) -> None:
        """Note that the files of ``blobs`` are about to be written, whatever will be in them."""
        ...

    async def withdraw(self, blobs: Sequence[Blob]) -> None:
        """Forget that; nobody has begun to write them."""
        ...


class Blanks:
    """Owns the rows that are at hand."""

    __slots__ = ("_at_hand", "_clock", "_rows", "_seen", "_wanted")

    def __init__(self, rows: Reserving, clock: Clock) -> None:
        self._rows, self._clock = rows, clock
        self._at_hand: OrderedDict[tuple[str, Format], deque[Blob]] = OrderedDict()
        self._wanted: set[tuple[str, Format]] = set()
        """Where some were asked for since they were filled up."""
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def take(self, tenant: str, digest: str, form: Format) -> Blob | None:
        """A row for a file of ``tenant``, without digest and size; None if there is none at hand, but there will be.

        None, too, for what came a moment ago: it may be there already.
        """
        content, kind = (tenant, digest), (tenant, form)
        known = content in self._seen
        self._seen[content] = None
        self._seen.move_to_end(content)
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        if known:
            return None
        self._wanted.add(kind)
        rows = self._at_hand.setdefault(kind, deque())
        self._at_hand.move_to_end(kind)
        while rows:
            if (row := rows.popleft()).created > self._clock.time() - SECONDS:
                return row
        return None

    async def fill(self) -> None:
        """Write as many as are missing where some were asked for."""
        while len(self._at_hand) > KINDS:
            self._at_hand.popitem(last=False)
        wanted, self._wanted = self._wanted & self._at_hand.keys(), set()
        now = self._clock.time()
        new = [
            (kind, Blob(name := secrets.token_hex(16), kind[0], "", path_of(kind[0], now, name, kind[1]), 0, now))
            for kind in wanted
            for _ in range(AT_HAND - len(self._at_hand[kind]))
        ]
        if new:
            await self._rows.reserve([row for _, row in new])
        for kind, row in new:
            self._at_hand.setdefault(kind, deque()).append(row)

    async def clear(self) -> None:
        """Take back what is at hand."""
        rows = [row for kind in self._at_hand.values() for row in kind]
        self._at_hand.clear()
        if rows:
            await self._rows.withdraw(rows)
