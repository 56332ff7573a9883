"""The catalog in force, and the file it comes from."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType

import msgspec
from structlog.typing import FilteringBoundLogger

from server.catalog.catalog import Catalog
from server.catalog.loading import load
from server.catalog.positions import CatalogError
from server.catalog.watching import changes, mark
from server.domain.clock import Clock

Listener = Callable[[Catalog], None]
"""Told of a new catalog once it is in force; must not block and must not raise."""


class CatalogStatus(msgspec.Struct, frozen=True):
    """Where the catalog comes from, and whether the file can be used as it stands now."""

    path: str | None
    """None: the catalog that comes with the package, which is not watched."""
    since: float
    """Unix time since when this catalog is in force."""
    error: str | None
    """Why the file, as it is now, is refused; the catalog before it stays in force. None: the file is in force."""


class CurrentCatalog:
    """Owns the catalog in force. Whoever needs it asks here, once for each piece of work, and keeps the answer that long."""

    __slots__ = ("_catalog", "_clock", "_counted", "_environ", "_error", "_listeners", "_log", "_path", "_seen", "_since")

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        counted: Callable[[bool], None] = lambda _ok: None,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Read ``path`` (None: the packaged catalog); raises `CatalogError`. ``counted`` hears whether each reload went well.

        ``environ`` says which upstreams have a key.
        """
        self._path = path
        self._environ = environ
        self._clock = clock
        self._log = log
        self._counted = counted
        self._seen = None if path is None else mark(path)
        self._catalog = load(path, environ)
        self._since = clock.time()
        self._error: str | None = None
        self._listeners: list[Listener] = []

    @property
    def catalog(self) -> Catalog:
        """The catalog in force; frozen, so it may be kept for the length of a request."""
        return self._catalog

    @property
    def status(self) -> CatalogStatus:
        """How it stands."""
        return CatalogStatus(None if self._path is None else str(self._path), self._since, self._error)

    @contextmanager
    def told(self, listener: Listener) -> Iterator[None]:
        """Inside the block, ``listener`` hears of each new catalog."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["CurrentCatalog"]:
        """Inside the block, edits of the file are taken over."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(self._path), name="models.yaml") if self._path else None
            try:
                yield self
            finally:
                if watch is not None:
                    watch.cancel()

    async def reload(self) -> bool:
        """Read the file again; False if it is refused, which changes nothing but `status`."""
        try:
            found = await asyncio.to_thread(load, self._path, self._environ)
        except CatalogError as error:
            return self._refuse(str(error))
        except Exception as error:  # noqa: BLE001 - whatever an edit provokes, the server goes on with what it has
            return self._refuse(f"{self._path}:1: cannot be understood: {type(error).__name__}: {error}")
        self._error = None
        if found != self._catalog:
            before, self._catalog = self._catalog, found
            self._since = self._clock.time()
            self._log.info("models.yaml is reloaded", **_differences(before, found))
            for listener in list(self._listeners):
                listener(found)
        self._counted(True)  # noqa: FBT003 - the one thing it hears
        return True

    def _refuse(self, error: str) -> bool:
        self._error = error
        self._log.error("models.yaml is refused; the models stay as they were", error=error)
        self._counted(False)  # noqa: FBT003 - the one thing it hears
        return False

    async def _watch(self, path: Path) -> None:
        async for _ in changes(path, self._seen):
            await self.reload()


def _differences(before: Catalog, after: Catalog) -> dict[str, list[str]]:
    """Ids for the log: models by their own, the rest as ``loras.paper-cut``."""
    old, new = _listed(before), _listed(after)
    both = old.keys() & new.keys()
    found = {
        "added": sorted(new.keys() - both),
        "removed": sorted(old.keys() - both),
        "changed": sorted(each for each in both if old[each] != new[each]),
    }
    return {word: ids for word, ids in found.items() if ids}


def _listed(catalog: Catalog) -> dict[str, object]:
    sections: dict[str, Mapping[str, object]] = {
        "loras": catalog.loras,
        "controlnets": catalog.controlnets,
        "ip_adapters": catalog.ip_adapters,
        "upscalers": catalog.upscalers,
        "preprocessors": catalog.preprocessors,
        "upstreams": catalog.upstreams,
    }
    rest = {f"{section}.{name}": card for section, cards in sections.items() for name, card in cards.items()}
    return {**catalog.cards, **rest}
