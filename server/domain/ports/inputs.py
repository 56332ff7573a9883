"""Where pictures come from that requests name."""

from typing import Protocol, runtime_checkable


class InputSource(Protocol):
    """Where pictures that requests name are found."""

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes called ``asset_id`` that ``tenant`` may use, or None."""
        ...


@runtime_checkable
class InputStore(Protocol):
    """Keeps pictures that callers upload once and name in later requests; each caller sees only its own."""

    async def put(self, tenant: str, data: bytes) -> str:
        """Store ``data`` and return its id, which is the same for the same bytes of the same tenant."""
        ...

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes stored under ``asset_id``, or None; using them makes them young again."""
        ...

    async def delete(self, tenant: str, asset_id: str) -> bool:
        """Let go of them; False if there are none."""
        ...
