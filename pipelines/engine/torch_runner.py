"""The runner with tensors: encode, denoise and decode on one device."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import cast

import torch

from pipelines.adapters import inpainting, opened
from pipelines.adapters.additions import Shaping
from pipelines.adapters.opened import Adapter, Find
from pipelines.adapters.resampling import as_picture, as_pixels
from pipelines.contract.adapters import AdapterCard, UpscalerCard
from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import AquatintError, ErrorReport
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture
from pipelines.engine import faults
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.encoding import Encode, Encoder
from pipelines.engine.enlarging import Enlargements
from pipelines.engine.forwards import Forwards
from pipelines.engine.meter import Meter, meter_of
from pipelines.engine.previews import Previewer
from pipelines.engine.row import Course, Row, RowId
from pipelines.engine.runner import AdapterKey, DeviceFault, Loaded, LoadProgress, OpenAdapter, Shelf
from pipelines.engine.state import RowState
from pipelines.engine.wardrobe import Wardrobe
from pipelines.families import loading, pictures, sizes
from pipelines.families.autoencoder import Moments
from pipelines.families.construction import undisturbed
from pipelines.families.family import Family, Prompt
from pipelines.families.shared import Shared


class Resident:
    """One loaded model and what goes with it."""

    __slots__ = ("encoder", "family", "name", "previewer")

    def __init__(self, family: Family, card: ModelCard | None = None, *, name: str = "") -> None:
        """Wrap ``family``; ``card`` says how prompts are to be read, ``name`` is nobody else's."""
        self.family = family
        self.name = name
        self.encoder = Encoder(family, card)
        self.previewer = Previewer(family)


class TorchRunner:
    """Owns every tensor of every row, and the models."""

    def __init__(self, device: torch.device, meter: Meter | None = None, *, buckets: Sequence[int] = ()) -> None:
        """Compute on ``device``; ``meter`` says what each batch takes, as far as the device lets it.

        Compiled models are made ready for batches of ``buckets`` evaluations.
        """
        self._device = device
        self._meter = meter or meter_of(device)
        self._buckets = tuple(buckets)
        self._models: dict[str, Resident] = {}
        self._states: dict[RowId, RowState] = {}
        self._forwards = Forwards(device)
        self._wardrobe = Wardrobe(device)
        self._loads = count()
        self._enlargements = Enlargements()
        self._phases: dict[Phase, Callable[[Batch, _Work], None]] = {
            Phase.ENCODE: self._encode,
            Phase.DENOISE: self._denoise,
            Phase.DECODE: self._decode,
            Phase.ENLARGE: self._enlarge,
        }

    def expected(self, card: ModelCard) -> int:
        """Bytes of the weights in the card's source, in the precision that it will have here; 0 if nobody can tell."""
        return sizes.expected(card, self._device)

    def load(self, card: ModelCard, shelf: Shelf, progress: LoadProgress) -> Loaded:
        """Load from the card's source; touches nothing that batches use."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # each thread has a current device of its own
        shared = Shared(shelf.own, shelf.others)
        try:
            family = loading.load(card, self._device, progress, shared, self._buckets)
        except AquatintError as error:
            raise faults.cause(error) from error
        return Loaded(family.facts, shared.taken(), Resident(family, card, name=self._unique(card.id)))

    def install(self, model: str, loaded: Loaded) -> None:
        """Take on what `load` has made."""
        if not isinstance(loaded.body, Resident):
            msg = f"unreachable: {model!r} was loaded by another runner"
            raise TypeError(msg)
        self._models[model] = loaded.body

    def park(self, model: str) -> None:
        """Let go of its prompt embeddings: they are on the device."""
        if model in self._models:
            self._models[model].encoder.embeddings.clear()
            self._forwards.forget()

    def adapter_key(self, model: str, card: AdapterCard) -> AdapterKey:
        """By what it is made fit for: see `pipelines.adapters.opened`."""
        if isinstance(card, UpscalerCard):
            return opened.key(card, model, None)
        resident = self._models[model]
        return opened.key(card, resident.name, resident.family)

    def open_adapter(self, model: str, card: AdapterCard) -> Callable[[LoadProgress], OpenAdapter]:
        """Open it for the network of ``model``; touches nothing that batches use."""
        return self._wardrobe.opening(card, None if isinstance(card, UpscalerCard) else self._models[model].family)

    def install_adapter(self, key: AdapterKey, adapter: OpenAdapter) -> None:
        """Take on what `open_adapter`'s work has made."""
        self._wardrobe.install(key, cast("Adapter", adapter))

    def drop_adapter(self, key: AdapterKey) -> None:
        """Forget it."""
        self._wardrobe.drop(key)
        self.free()

    def _finder(self, model: str) -> Find:
        return self._wardrobe.finder(partial(self.adapter_key, model))

    def add(self, model: str, family: Family, card: ModelCard | None = None) -> ModelFacts:
        """Take on an already loaded family under the name ``model``; without a card prompts are read as by default."""
        self._models[model] = Resident(family, card, name=self._unique(model))
        return family.facts

    def _unique(self, model: str) -> str:
        """What one loading of ``model`` is called: an adapter bound to it does not fit the next one."""
        return f"{model}#{next(self._loads)}"

    def unload(self, model: str) -> None:
        """Forget the model."""
        self._models.pop(model, None)
        self._forwards.forget()

    def free(self) -> None:
        """Give the allocator's cache back to the device."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def drop(self, rows: Iterable[RowId]) -> None:
        """Free what is held for these rows."""
        for row in rows:
            self._states.pop(row, None)
            self._enlargements.drop(row)
        self._forwards.forget()

    @torch.inference_mode()
    def run(self, batch: Batch) -> Outcome:
        """Compute ``batch``; raises `DeviceFault` when the device itself is broken."""
        with undisturbed():
            return self._run(batch)

    def _run(self, batch: Batch) -> Outcome:
        began = time.monotonic()
        work = _Work()
        out_of_memory, fault = False, None
        self._meter.begin()
        try:
            self._phases[batch.phase](batch, work)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            out_of_memory = faults.is_out_of_memory(error)
            if not out_of_memory and faults.is_device_fault(error):
                raise DeviceFault(str(error)) from error
            fault = None if out_of_memory else faults.report(error)
        except Exception as error:  # noqa: BLE001 - whatever a network raises is one batch's fault, not the process's
            fault = faults.report(error)
        measured = self._meter.end()
        if out_of_memory:
            self._forwards.forget()
            self.free()
        return Outcome(
            seconds=time.monotonic() - began,
            advanced=work.advanced,
            courses=work.courses,
            switches=work.switches,
            pictures=work.pictures,
            previews=work.previews,
            failed=work.failed,
            out_of_memory=out_of_memory,
            fault=fault,
            padded=work.padded,
            peak_bytes=None if measured is None else measured[0],
            free_bytes=0 if measured is None else measured[1],
        )

    def _encode(self, batch: Batch, work: "_Work") -> None:
        drawn = [row for row in batch.rows if not row.idle]
        for row in batch.rows:
            if row.idle:
                self._set_out(row, work)
        if drawn:
            self._begin(drawn, self._models[batch.key.model], work)

    def _set_out(self, row: Row, work: "_Work") -> None:
        """``row`` draws nothing yet: its picture is only to be enlarged."""
        try:
            ahead = 0 if row.modelless else self._models[row.key.model].encoder.ahead(row)
        except AquatintError as error:
            work.failed[row.id] = error.report()
            return
        if row.request.init is None:
            msg = "unreachable: an idle row has a picture"
            raise ValueError(msg)
        pixels = pictures.init_pixels(row.request.init, row.key.width, row.key.height)[0] / 2 + 0.5
        self._enlargements.take(row, pixels, self._finder(row.key.model))
        work.advanced[row.id], work.courses[row.id] = 0, Course(0, ahead=ahead)

    def _begin(self, rows: Sequence[Row], resident: Resident, work: "_Work") -> None:
        self._read_prompts(rows, resident, work)
        moments: dict[tuple[str | RowId, int], Moments] = {}
        shapings: dict[str | RowId, Shaping] = {}
        for row in rows:
            if row.id in work.failed:
                continue
            # n images of one request ask for the same in the same order, in their first pass: each picture is encoded once.
            whose: str | RowId = row.id if row.later else row.request.id
            asked = count()

            def encode(pixels: torch.Tensor, whose: str | RowId = whose, asked: Iterator[int] = asked) -> Moments:
                key = (whose, next(asked))
                if key not in moments:
                    moments[key] = resident.family.vae.moments(pixels)[0]
                return moments[key]

            try:
                state = self._state(row, resident, encode, shapings.get(whose))
            except AquatintError as error:
                work.failed[row.id] = error.report()
                continue
            if row.id in self._states:
                # What the row was told before is let go: another conditioning may come to have its identity.
                self._forwards.forget()
            self._states[row.id] = state
            shapings[whose] = state.shaping
            work.advanced[row.id] = state.total
            work.courses[row.id] = state.course()
            work.switches |= _switch(row, state)

    def _read_prompts(self, rows: Sequence[Row], resident: Resident, work: "_Work") -> None:
        """Encode what all ``rows`` are told, in one go."""
        wanted: list[Prompt] = []
        for row in rows:
            try:
                wanted += [cue.prompt for cues in resident.encoder.prompts(row, self._finder(row.key.model)) for cue in cues]
            except AquatintError as error:
                work.failed[row.id] = error.report()
        with suppress(AquatintError):  # one row's fault is told to that row, when it is its turn
            resident.encoder.embeddings.fetch(wanted)

    def _state(self, row: Row, resident: Resident, encode: Encode, shaped: Shaping | None) -> RowState:
        """What ``row`` begins with, whichever pass or model comes next."""
        encoder, find = resident.encoder, self._finder(row.key.model)
        if row.refining:
            return encoder.refined(row, self._states[row.id], find)
        with self._enlargements.held(row, self._states.get(row.id), resident.family) as held:
            return encoder.state(row, encode, find, shaped, held=held)

    def _denoise(self, batch: Batch, work: "_Work") -> None:
        resident = self._models[batch.key.model]
        states = [self._states[row.id] for row in batch.rows]
        wanted = [state.evaluations() for state in states]
        predicted = self._forwards.predict(resident.family, states, wanted, batch)
        work.padded += predicted.padded
        first = 0
        for row, state, own in zip(batch.rows, states, wanted, strict=True):
            last = first + len(own)
            guess = state.advance(predicted.answers[first:last])
            first = last
            work.advanced[row.id] = state.position
            if row.id in batch.previews:
                work.previews[row.id] = resident.previewer.picture(guess)

    def _decode(self, batch: Batch, work: "_Work") -> None:
        family = self._models[batch.key.model].family
        for row in batch.rows:
            state = self._states[row.id]
            try:
                pixels = family.vae.pixels(state.latents)[0]
            except AquatintError as error:
                work.failed[row.id] = error.report()
                continue
            if state.paste is not None:
                put_back = inpainting.put_back(state.paste, as_picture(pixels), row.request.width, row.request.height)
                pixels = as_pixels(put_back)
            if row.shown:
                work.pictures[row.id] = as_picture(pixels)
            else:
                self._enlargements.take(row, pixels.cpu(), self._finder(row.key.model))
            work.advanced[row.id] = row.position

    def _enlarge(self, batch: Batch, work: "_Work") -> None:
        for row in batch.rows:
            try:
                work.advanced[row.id] = left = self._enlargements.advance(row)
            except AquatintError as error:
                work.failed[row.id] = error.report()
                continue
            if row.shown and not left:
                work.pictures[row.id] = self._enlargements.picture(row)

    def latents(self, row: RowId) -> torch.Tensor:
        """A copy of a row's latents, for parity tests and checks."""
        return self._states[row].latents.clone()


class _Work:
    """What a batch has achieved so far; kept when the rest of it fails."""

    __slots__ = ("advanced", "courses", "failed", "padded", "pictures", "previews", "switches")

    def __init__(self) -> None:
        self.advanced: dict[RowId, int] = {}
        self.courses: dict[RowId, Course] = {}
        self.switches: dict[RowId, int] = {}
        self.padded = 0
        self.pictures: dict[RowId, Picture] = {}
        self.previews: dict[RowId, Picture] = {}
        self.failed: dict[RowId, ErrorReport] = {}


def _switch(row: Row, state: RowState) -> dict[RowId, int]:
    """When ``row``'s refiner takes over; with a second pass to come the image is not the refiner's to finish yet."""
    refiner = row.request.refiner
    if refiner is None or row.refining or row.request.hires is not None:
        return {}
    return {row.id: state.solver.before(refiner.switch_at)}
