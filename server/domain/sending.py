"""Whether a request is out: sent to somebody who may charge for it."""

from msgspec.structs import replace

from server.domain.call import Call


class Sending:
    """Follows one call on its road; whoever made that call is told the same.

    Only who sends it knows when: a request may wait long for its turn, or never be sent at all.
    """

    __slots__ = ("_outer", "call", "doubtful")

    def __init__(self, call: Call) -> None:
        self._outer = call
        self.call = replace(call, sending=self._begun, spared=self._ended)
        """What goes down the road."""
        self.doubtful = False
        """Whether money may have been spent, as far as is known now."""

    def _begun(self) -> None:
        self.doubtful = True
        self._outer.sending()

    def _ended(self) -> None:
        self.doubtful = False
        self._outer.spared()
