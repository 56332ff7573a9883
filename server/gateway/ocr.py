"""Reads what stands in a picture, with the extra `ocr` (RapidOCR: its models come in its wheel)."""

import asyncio
import importlib
import io
from importlib.util import find_spec
from typing import Any, Protocol

from PIL import Image

from pipelines.contract.picture import Picture


class Reader(Protocol):
    """Reads pictures."""

    @property
    def available(self) -> bool:
        """Whether it can."""
        ...

    async def read(self, picture: Picture) -> tuple[str, ...]:
        """The lines in ``picture``, from top to bottom."""
        ...


class OcrReader:
    """One picture at a time, in a thread: a second one would wait for the same cores. The models are loaded at the first."""

    __slots__ = ("_engine", "_found", "_one")

    def __init__(self) -> None:
        self._found: bool | None = None
        self._engine: Any = None
        self._one = asyncio.Semaphore(1)

    @property
    def available(self) -> bool:
        """Whether the extra is installed; looked up once."""
        if self._found is None:
            self._found = find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None
        return self._found

    async def read(self, picture: Picture) -> tuple[str, ...]:
        """The lines in ``picture``, from top to bottom; about a second each. Raises `ImportError` without the extra."""
        async with self._one:
            # A thread cannot be cancelled: the place is kept until it is done, whoever has left meanwhile.
            work = asyncio.get_running_loop().run_in_executor(None, self._read, picture)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise

    def _read(self, picture: Picture) -> tuple[str, ...]:
        if self._engine is None:
            self._engine = importlib.import_module("rapidocr").RapidOCR()
        target = io.BytesIO()
        Image.frombytes(picture.mode, (picture.width, picture.height), picture.data).convert("RGB").save(target, "BMP")
        found = self._engine(target.getvalue())
        return tuple(found.txts or ())
