"""Rows of files that are still to come: set aside before anybody knows what will be in them, so that no answer waits for its own.

A file lies where its row says, whatever is in it; what that is, the row is told once the file is whole. Those that are never
used are taken back, or given up like any whose writing did not end.
"""

import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

from server.domain.asset import Format
from server.domain.clock import Clock
from server.domain.stored import Blob
from server.storage.assets import path_of

MOST_AT_HAND = 16
"""Of one kind, which is a tenant and a format: twice as many as were asked for lately, and no more than that."""
KINDS = 256
"""Beyond it those that nobody has asked for longest have none."""
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
        self._wanted: Counter[tuple[str, Format]] = Counter()
        """How often each kind was asked for since it was filled up."""
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
        self._wanted[kind] += 1
        rows = self._at_hand.setdefault(kind, deque())
        self._at_hand.move_to_end(kind)
        # The youngest: of those that are old, all before it are.
        return rows.pop() if rows and not self._old(rows[-1]) else None

    async def fill(self) -> None:
        """Write as many as are missing where some were asked for, and take back what is old, or of too many kinds."""
        wanted, self._wanted = self._wanted, Counter()
        spare: list[Blob] = []
        while len(self._at_hand) > KINDS:
            spare += self._at_hand.popitem(last=False)[1]
        for rows in self._at_hand.values():
            while rows and self._old(rows[0]):
                spare.append(rows.popleft())
        new = [
            self._row(*kind)
            for kind, times in wanted.items()
            if kind in self._at_hand
            for _ in range(min(MOST_AT_HAND, 2 * times) - len(self._at_hand[kind]))
        ]
        if spare:
            await self._rows.withdraw(spare)
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

    def _old(self, row: Blob) -> bool:
        return row.created <= self._clock.time() - SECONDS

    def _row(self, tenant: str, form: Format) -> tuple[tuple[str, Format], Blob]:
        name, now = secrets.token_hex(16), self._clock.time()
        return (tenant, form), Blob(name, tenant, "", path_of(tenant, now, name, form), 0, now)
