"""Where worker processes come from."""

from typing import Protocol

from server.fleet.link import Link


class Process(Protocol):
    """One started worker, known by its pipe and its exit."""

    @property
    def link(self) -> Link:
        """The pipe; end of file on it is the worker's death."""
        ...

    @property
    def pid(self) -> int:
        """The process id, for people."""
        ...

    async def wait(self) -> int:
        """The exit code, once there is one (negative: the signal that ended it)."""
        ...

    def terminate(self) -> None:
        """Ask it to finish what is in flight and leave."""
        ...

    def kill(self) -> None:
        """End it at once; no effect on one that has ended."""
        ...


class Host(Protocol):
    """Starts workers: processes here, or actors elsewhere."""

    async def spawn(self, name: str, device: str) -> Process:
        """A new worker for ``device``; its first frame will be `Hello`."""
        ...
