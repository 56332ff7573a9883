"""Links that expire: who has one may read one asset until then, and cannot make another of it."""

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_BYTES = 32


class LinkSigner:
    """Signs with the first secret and believes them all, so that secrets can be changed."""

    __slots__ = ("_known", "_secrets")

    def __init__(self, secrets: Callable[[], Sequence[bytes]]) -> None:
        """``secrets`` is called at the first link, and returns at least one."""
        self._secrets = secrets
        self._known: tuple[bytes, ...] = ()

    def sign(self, name: str, expires: int) -> str:
        """The signature for reading ``name`` until Unix time ``expires``."""
        return _signature(self._all()[0], name, expires)

    def valid(self, name: str, expires: int, signature: str) -> bool:
        """Whether it was made here. Every secret is tried, so that the time tells nothing."""
        shown = signature.encode()
        matches = [hmac.compare_digest(_signature(secret, name, expires).encode(), shown) for secret in self._all()]
        return any(matches)

    def _all(self) -> tuple[bytes, ...]:
        self._known = self._known or tuple(self._secrets())
        return self._known


def secret_of(folder: Path) -> bytes:
    """The secret in ``folder``, made at the first call; several servers that start together get the same."""
    path = folder / "link-secret"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)  # readable by us only
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_hex(_BYTES).encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass  # another server was first
        finally:
            Path(temporary).unlink()
    return path.read_bytes()


def _signature(secret: bytes, name: str, expires: int) -> str:
    digest = hmac.digest(secret, f"{name}\n{expires}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
