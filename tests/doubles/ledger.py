"""What a double remembers: attempts, charges, requests; and the faults that it is told to have."""

import re
from dataclasses import dataclass, field
from typing import Any

_MARKER = re.compile(r"\[fault:([\w-]+)(?:\*(\d+))?\]")


@dataclass
class Ledger:
    """`charged` counts pictures that a vendor would put on the bill."""

    attempts: int = 0
    charged: int = 0
    polls: int = 0
    cancelled: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Of the next requests, one each."""
    marked: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    """Idempotency keys of what was charged."""

    def fault(self, prompt: str) -> str | None:
        """The fault of this request: the next of the list, or that of a marker such as `[fault:500]` or `[fault:429*2]`.

        A marker with a number holds for so many requests of that prompt.
        """
        if self.faults:
            return self.faults.pop(0)
        found = _MARKER.search(prompt)
        if found is None:
            return None
        self.marked[prompt] = self.marked.get(prompt, 0) + 1
        return found[1] if found[2] is None or self.marked[prompt] <= int(found[2]) else None

    def charge(self, images: int, key: str | None, *, idempotent: bool = False) -> None:
        """Put them on the bill; what has a known key is there already."""
        if idempotent and key in self.keys:
            return
        self.charged += images
        if key:
            self.keys.add(key)

    def view(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "charged": self.charged,
            "polls": self.polls,
            "cancelled": self.cancelled,
            "requests": self.requests,
        }

    def reset(self) -> None:
        self.__init__()
