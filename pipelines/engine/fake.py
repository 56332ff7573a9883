"""A runner without a network: colour gradients, delays and faults on demand.

For tests of everything around the engine, for trying a client without a GPU, and for the worker's own drills. A card's source
sets it: ``fake:?tick=0.02&load=0.1&oom_rows=4&crash_seed=13&hang_seed=14``.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec

from pipelines.contract.catalog import Family, ModelCard, ModelFacts
from pipelines.contract.errors import ErrorReport, ModelLoadFailed
from pipelines.contract.messages import Phase
from pipelines.contract.request import Picture
from pipelines.contract.samplers import resolve
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.row import Row, RowId
from pipelines.engine.runner import LoadProgress


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays in seconds, and when to misbehave."""

    tick: float = 0.0
    """Each denoise batch takes so long."""
    encode: float = 0.0
    decode: float = 0.0
    load: float = 0.0
    oom_rows: int | None = None
    """More evaluations in one tick than this do not fit."""
    crash_seed: int | None = None
    """A tick with this seed kills the process."""
    hang_seed: int | None = None
    """A tick with this seed never ends."""
    fail_seed: int | None = None
    """A tick with this seed fails for everybody in it."""
    fail_load: bool = False


class FakeRunner:
    """Runs every card; equal prompt, seed and size give equal pictures, whatever the company."""

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,  # noqa: TID251 - set delays are what this runner is for
        die: Callable[[], None] | None = None,
    ) -> None:
        """``faults`` hold for every model; None reads each model's from its source."""
        self._given = faults
        self._faults: dict[str, Faults] = {}
        self._sleep = sleep
        self._die = die or (lambda: os.kill(os.getpid(), signal.SIGKILL))
        self.batches: list[Batch] = []
        """Every batch run, for tests; only the last thousand are kept."""

    def load(self, card: ModelCard, progress: LoadProgress) -> ModelFacts:
        """Pretend to load, in ``load`` seconds."""
        faults = self._given or _read(card)
        for tenth in range(10):
            progress("gradients", tenth / 10)
            self._sleep(faults.load / 10)
        if faults.fail_load:
            msg = f"Model {card.id!r} was told to fail."
            raise ModelLoadFailed(msg)
        progress("ready", 1.0)
        self._faults[card.id] = faults
        return ModelFacts(Family.FAKE, "epsilon", "float32", 0, 0, 4, inpainting=False, load_seconds=faults.load)

    def unload(self, model: str) -> None:
        """Forget it."""
        self._faults.pop(model, None)

    def run(self, batch: Batch) -> Outcome:
        """Wait as told, then advance every row."""
        self.batches = [*self.batches[-999:], batch]
        faults = self._faults.get(batch.key.model, Faults())
        seconds = {Phase.ENCODE: faults.encode, Phase.DENOISE: faults.tick, Phase.DECODE: faults.decode}[batch.phase]
        self._sleep(seconds)
        if batch.phase is Phase.ENCODE:
            totals = {row.id: row.steps * _order(row) for row in batch.rows}
            return Outcome(seconds, advanced=totals, switches=_switches(batch, totals))
        if batch.phase is Phase.DENOISE:
            return self._tick(batch, faults, seconds)
        return Outcome(
            seconds,
            advanced={row.id: row.position for row in batch.rows},
            pictures={row.id: gradient(row, 1.0) for row in batch.rows},
        )

    def drop(self, rows: Iterable[RowId]) -> None:
        """Nothing is held."""

    def _tick(self, batch: Batch, faults: Faults, seconds: float) -> Outcome:
        seeds = {row.seed for row in batch.rows}
        if faults.crash_seed in seeds:
            self._die()
        if faults.hang_seed in seeds:
            while True:
                self._sleep(3600)
        if faults.fail_seed in seeds:
            return Outcome(seconds, fault=ErrorReport("engine_failure", "The runner was told to fail."))
        if faults.oom_rows is not None and min(batch.size, batch.budget) > faults.oom_rows:
            return Outcome(seconds, out_of_memory=True)
        return Outcome(
            seconds,
            advanced={row.id: row.position + 1 for row in batch.rows},
            previews={row.id: gradient(row, (row.position + 1) / row.total) for row in batch.rows if row.id in batch.previews},
            padded=max(0, batch.bucket - batch.size),
        )


def gradient(row: Row, share: float) -> Picture:
    """Two colours of the prompt and seed, top to bottom; ``share`` of the rows are drawn, the rest is grey."""
    width, height = row.key.width, row.key.height
    mark = crc32(f"{row.request.styled_prompt}\0{row.seed}".encode())
    top, bottom = (mark & 255, mark >> 8 & 255, mark >> 16 & 255), (mark >> 24 & 255, mark >> 4 & 255, mark >> 12 & 255)
    drawn = round(height * share)
    lines = []
    for y in range(height):
        blend = y / max(height - 1, 1)
        colour = bytes(round(a + (b - a) * blend) for a, b in zip(top, bottom, strict=True)) if y < drawn else b"\x80\x80\x80"
        lines.append(colour * width)
    return Picture(width=width, height=height, mode="RGB", data=b"".join(lines))


def _switches(batch: Batch, totals: Mapping[RowId, int]) -> dict[RowId, int]:
    """Any fake model refines any other, from the asked share of the steps on."""
    fresh = ((row, row.request.refiner) for row in batch.rows if not row.refining)
    return {row.id: round(totals[row.id] * refiner.switch_at) for row, refiner in fresh if refiner is not None}


def _order(row: Row) -> int:
    spec, _ = resolve(row.request.sampling.sampler, row.request.sampling.scheduler)
    return 2 if spec.id in {"heun", "dpm2", "dpm2_a", "dpmpp_sde"} else 1


def _read(card: ModelCard) -> Faults:
    if not card.source.startswith("fake:"):
        return Faults()
    options: Mapping[str, str] = dict(parse_qsl(card.source.removeprefix("fake:").lstrip("?")))
    try:
        return msgspec.convert(options, Faults, strict=False)
    except msgspec.ValidationError as error:
        msg = f"Source {card.source!r} of model {card.id!r}: {error}"
        raise ModelLoadFailed(msg) from error
