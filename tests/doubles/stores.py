"""Asset stores for tests: real ones over a database and a folder, and a place that runs out of room."""

from pathlib import Path
from typing import Any

from obstore.exceptions import GenericError
from obstore.store import LocalStore

from server.db.assets import SqlAssets
from server.db.database import Database
from server.domain.clock import Clock
from server.domain.ports.assets import AssetRepository
from server.storage.assets import Assets
from server.storage.bucket import Bucket
from server.storage.places import Place, place
from server.telemetry.logs import silent


def stored_in(folder: Path, rows: Database | AssetRepository, clock: Clock, *, seconds: float = 1e9, **options: Any) -> Assets:
    """The store of ``folder``, as a server has it."""
    bucket = Bucket(options.pop("place", None) or place(None, folder), silent())
    repository = SqlAssets(rows) if isinstance(rows, Database) else rows
    return Assets(repository, bucket, clock, silent(), seconds=seconds, **options)


class Quota:
    """A folder, in obstore's terms, with room for so many bytes; ``room`` can be changed at any time."""

    def __init__(self, folder: Path, room: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._store = LocalStore(folder, automatic_cleanup=True)
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def place(self) -> Place:
        return Place(lambda: self, self._folder)

    def put(self, path: str, data: bytes, **options: Any) -> Any:
        used = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        if used + len(data) > self.room:
            # As obstore says it of a full disk: it has removed what it had written.
            raise GenericError(
                "Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"
            )
        return self._store.put(path, data, **options)
