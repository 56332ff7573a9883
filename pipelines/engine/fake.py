"""A runner without a network: colour gradients, delays and faults on demand.

For tests of everything around the engine, for trying a client without a GPU, and for the worker's own drills. A card's source
sets it: ``fake:?tick=0.02&load=0.1&bytes=4000000&oom_rows=4&crash_seed=13&hang_seed=14``.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec

from pipelines.contract.adapters import AdapterCard
from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import ErrorReport, ModelLoadFailed, OutOfMemory
from pipelines.contract.family import Family
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture
from pipelines.contract.samplers import resolve
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.row import Row, RowId
from pipelines.engine.runner import AdapterKey, Loaded, LoadProgress, OpenAdapter, Shelf
from pipelines.memory.residency import Weights


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delays in seconds, and when to misbehave."""

    tick: float = 0.0
    """Each denoise batch takes so long."""
    encode: float = 0.0
    decode: float = 0.0
    enlarge: float = 0.0
    load: float = 0.0
    bytes: int = 0
    """What the model takes up on the device."""
    shared: str = ""
    """With ``shared_bytes``: a component that all models with the same word here have in common."""
    shared_bytes: int = 0
    promise: int | None = None
    """What its source promises before it is loaded; None for what it takes up."""
    oom_rows: int | None = None
    """More evaluations in one tick than this do not fit."""
    crash_seed: int | None = None
    """A tick with this seed kills the process."""
    hang_seed: int | None = None
    """A tick with this seed never ends."""
    fail_seed: int | None = None
    """A tick with this seed fails for everybody in it."""
    fail_load: bool = False
    row_bytes: int | None = None
    """What one evaluation in a tick takes of the device; None measures nothing."""
    room_bytes: int = 0
    """With ``row_bytes``: what there is for a tick; more than that is out of memory."""
    oom_loads: int = 0
    """So many loads run out of memory, one by one."""


class FakeWeights:
    """Weights without a weight: a size, an identity, and a place."""

    def __init__(self, size: int, identity: str | None = None) -> None:
        """``size`` in bytes, on the device."""
        self.identity = identity
        self.bytes = size
        self.place = "device"

    def to_device(self) -> None:
        """It is on the device now."""
        self.place = "device"

    def to_ram(self) -> None:
        """It is in RAM now."""
        self.place = "ram"

    def drop(self) -> None:
        """It is nowhere now."""
        self.place = "nowhere"


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
        self._loads: dict[str, int] = {}
        self._sleep = sleep
        self._die = die or (lambda: os.kill(os.getpid(), signal.SIGKILL))
        self.adapters: dict[AdapterKey, OpenAdapter] = {}
        """Those that are on the device."""
        self.batches: list[Batch] = []
        """Every batch run, for tests; only the last thousand are kept."""

    def expected(self, card: ModelCard) -> int:
        """What the source promises."""
        faults = self._given or _read(card)
        return faults.bytes + faults.shared_bytes if faults.promise is None else faults.promise

    def load(self, card: ModelCard, shelf: Shelf, progress: LoadProgress) -> Loaded:
        """Pretend to load, in ``load`` seconds."""
        faults = self._given or _read(card)
        for tenth in range(10):
            progress("gradients", tenth / 10)
            self._sleep(faults.load / 10)
        if faults.fail_load:
            msg = f"Model {card.id!r} was told to fail."
            raise ModelLoadFailed(msg)
        self._loads[card.id] = self._loads.get(card.id, 0) + 1
        if self._loads[card.id] <= faults.oom_loads:
            msg = f"Model {card.id!r} was told not to fit."
            raise OutOfMemory(msg)
        progress("ready", 1.0)
        weights: dict[str, Weights] = {"gradients": FakeWeights(faults.bytes)}
        if faults.shared:
            live = [each for _, each in shelf.others if each.identity == faults.shared]
            weights["shared"] = live[0] if live else FakeWeights(faults.shared_bytes, faults.shared)
            weights["shared"].to_device()
        size = sum(each.bytes for each in weights.values())
        facts = ModelFacts(Family.FAKE, "epsilon", "float32", 0, size, 4, inpainting=False, load_seconds=faults.load)
        return Loaded(facts, weights, faults)

    def install(self, model: str, loaded: Loaded) -> None:
        """Keep its faults at hand."""
        self._faults[model] = loaded.body if isinstance(loaded.body, Faults) else Faults()

    def park(self, model: str) -> None:
        """Nothing but weights is on the device."""

    def unload(self, model: str) -> None:
        """Forget it."""
        self._faults.pop(model, None)

    def free(self) -> None:
        """There is no cache."""

    def adapter_key(self, model: str, card: AdapterCard) -> AdapterKey:  # noqa: ARG002 - no model makes a difference
        """By kind and name."""
        return (type(card).__name__, card.name)

    def open_adapter(self, model: str, card: AdapterCard) -> Callable[[LoadProgress], OpenAdapter]:  # noqa: ARG002
        """Pretend to, as its source says: ``fake:?load=0.1&bytes=1000&fail_load=1``."""
        faults = _read(card)

        def work(progress: LoadProgress) -> OpenAdapter:
            progress(card.name, 0.0)
            self._sleep(faults.load)
            if faults.fail_load:
                msg = f"Adapter {card.name!r} was told to fail."
                raise ModelLoadFailed(msg)
            self._loads[card.name] = self._loads.get(card.name, 0) + 1
            if self._loads[card.name] <= faults.oom_loads:
                msg = f"Adapter {card.name!r} was told not to fit."
                raise OutOfMemory(msg)
            return FakeWeights(faults.bytes)

        return work

    def install_adapter(self, key: AdapterKey, adapter: OpenAdapter) -> None:
        """Remember it."""
        self.adapters[key] = adapter

    def drop_adapter(self, key: AdapterKey) -> None:
        """Forget it."""
        self.adapters.pop(key, None)

    def run(self, batch: Batch) -> Outcome:
        """Wait as told, then advance every row."""
        self.batches = [*self.batches[-999:], batch]
        faults = self._faults.get(batch.key.model, Faults())
        delays = {Phase.ENCODE: faults.encode, Phase.DENOISE: faults.tick, Phase.DECODE: faults.decode}
        seconds = delays.get(batch.phase, faults.enlarge)
        self._sleep(seconds)
        if batch.phase is Phase.ENCODE:
            totals = {row.id: row.own_steps * _order(row) for row in batch.rows}
            return Outcome(seconds, advanced=totals, switches=_switches(batch, totals))
        if batch.phase is Phase.DENOISE:
            return self._tick(batch, faults, seconds)
        # A picture is enlarged in one piece: nothing is left after the first.
        advanced = {row.id: 0 if batch.phase is Phase.ENLARGE else row.position for row in batch.rows}
        return Outcome(seconds, advanced, pictures={row.id: gradient(row, 1.0) for row in batch.rows if row.shown})

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
        taken = None if faults.row_bytes is None else faults.row_bytes * max(min(batch.size, batch.budget), batch.bucket)
        if taken is not None and taken > faults.room_bytes:
            return Outcome(seconds, out_of_memory=True)
        return Outcome(
            seconds,
            peak_bytes=taken,
            free_bytes=faults.room_bytes,
            advanced={row.id: row.position + 1 for row in batch.rows},
            previews={row.id: gradient(row, (row.position + 1) / row.total) for row in batch.rows if row.id in batch.previews},
            padded=max(0, batch.bucket - batch.size),
        )


def gradient(row: Row, share: float) -> Picture:
    """Two colours of the prompt and seed, top to bottom; ``share`` of the rows are drawn, the rest is grey.

    It is as large as the finished picture is to be at this stage; while it is drawn, as large as its latents.
    """
    width, height = (row.key.width, row.key.height) if row.phase is Phase.DENOISE else row.request.finished_size
    if row.phase is Phase.ENLARGE and row.request.upscale is not None:
        width, height = row.request.upscale.width, row.request.upscale.height
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
    fresh = ((row, row.request.refiner) for row in batch.rows if not (row.refining or row.request.hires))
    return {row.id: round(totals[row.id] * refiner.switch_at) for row, refiner in fresh if refiner is not None}


def _order(row: Row) -> int:
    spec, _ = resolve(row.request.sampling.sampler, row.request.sampling.scheduler)
    return 2 if spec.id in {"heun", "dpm2", "dpm2_a", "dpmpp_sde"} else 1


def _read(card: ModelCard | AdapterCard) -> Faults:
    if not card.source.startswith("fake:"):
        return Faults()
    options: Mapping[str, str] = dict(parse_qsl(card.source.removeprefix("fake:").lstrip("?")))
    try:
        return msgspec.convert(options, Faults, strict=False)
    except msgspec.ValidationError as error:
        name = card.id if isinstance(card, ModelCard) else card.name
        msg = f"Source {card.source!r} of {name!r}: {error}"
        raise ModelLoadFailed(msg) from error
