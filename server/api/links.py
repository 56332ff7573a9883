"""URLs under which results can be fetched."""

from typing import Any

from litestar import Request

OUTPUTS = "/outputs"


class Links:
    """Where clients find what this server has stored."""

    __slots__ = ("_public_url",)

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url

    def output(self, request: Request[Any, Any, Any], name: str) -> str:
        """The URL of a stored image; without a configured one, the address the client itself used."""
        return self.absolute(self.base(request), name)

    def base(self, request: Request[Any, Any, Any]) -> str:
        """Where the client of ``request`` finds this server."""
        return self._public_url or str(request.base_url).rstrip("/")

    def absolute(self, base: str, name: str) -> str:
        """The URL of a stored image for a client whose address of this server is ``base``."""
        return f"{base}{OUTPUTS}/{name}"
