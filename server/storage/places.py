"""Where results lie: a folder, or a bucket by its URL."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from server.settings import loopback

_SIGNING = frozenset({"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl"})
_RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
"""After that a job fails with an error that says that it may be tried again: waiting longer helps nobody."""


class Place(msgspec.Struct, frozen=True):
    """One place; ``make`` connects to it, in the sense of obstore."""

    make: Callable[[], Any]
    folder: Path | None = None
    """None: it is not on this machine's file system, keeps content types, and signs URLs."""

    @property
    def remote(self) -> bool:
        """Whether others can fetch from it by themselves."""
        return self.folder is None


def place(url: str | None, folder: Path, endpoint: str | None = None) -> Place:
    """The place that ``url`` names (None: ``folder``); ``endpoint`` is that of a server that speaks S3 and is not Amazon's."""
    if url is None:
        return Place(lambda: _local(folder), folder)
    if url.startswith("file://"):
        path = Path(unquote(urlsplit(url).path))
        return Place(lambda: _local(path), path)
    return Place(lambda: _remote(url, endpoint))


def signing(scheme: str) -> bool:
    """Whether obstore knows places of that kind that sign URLs."""
    return scheme in _SIGNING


def _local(folder: Path) -> Any:
    # Late: nobody needs it before the first result.
    from obstore.store import LocalStore  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalStore(folder, automatic_cleanup=True)


def _remote(url: str, endpoint: str | None) -> Any:
    """Credentials, region and style of addresses come from the variables that obstore reads: AWS_*, GOOGLE_*, AZURE_*."""
    from obstore.store import from_url  # noqa: PLC0415

    options: dict[str, Any] = {"retry_config": _RETRIES}
    if endpoint is not None:
        options["endpoint"] = endpoint
        where = urlsplit(endpoint)
        if where.scheme == "http" and loopback(where.hostname or ""):
            options["client_options"] = {"allow_http": True}
    return from_url(url, **options)
