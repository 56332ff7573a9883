"""The runner with tensors: encode, denoise and decode on one device."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import cast

import torch

from pipelines.adapters import inpainting, opened
from pipelines.adapters.additions import NOTHING, Shaping
from pipelines.adapters.evaluation import evaluate
from pipelines.adapters.opened import Adapter, Find
from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.resampling import as_picture, as_pixels
from pipelines.adapters.upscaler import open_upscaler
from pipelines.contract.adapters import AdapterCard, UpscalerCard
from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import AquatintError, EngineFailure, ErrorReport, ModelLoadFailed, OutOfMemory
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.encoding import Encode, Encoder
from pipelines.engine.enlarging import Enlargements
from pipelines.engine.meter import Meter, meter_of
from pipelines.engine.previews import Previewer
from pipelines.engine.row import Course, Row, RowId
from pipelines.engine.runner import AdapterKey, DeviceFault, Loaded, LoadProgress, OpenAdapter, Shelf
from pipelines.engine.state import Evaluation, RowState
from pipelines.families import loading, pictures, sizes
from pipelines.families.autoencoder import Moments
from pipelines.families.conditioning import Conditioning, stack
from pipelines.families.construction import undisturbed
from pipelines.families.family import Family, Prompt
from pipelines.families.shared import Shared

_STACKS = 4
"""Stacked conditionings kept: keys that take turns on the device each have their own company."""


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
        self._conditioning: dict[tuple[int, ...], Conditioning] = {}
        self._adapters: dict[AdapterKey, Adapter] = {}
        self._prompts: weakref.WeakSet[ImagePrompt] = weakref.WeakSet()
        """IP-Adapters, installed or on their way: they may share an image encoder."""
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
            raise _cause(error) from error
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
            self._conditioning.clear()

    def adapter_key(self, model: str, card: AdapterCard) -> AdapterKey:
        """By what it is made fit for: see `pipelines.adapters.opened`."""
        if isinstance(card, UpscalerCard):
            return opened.key(card, model, None)
        resident = self._models[model]
        return opened.key(card, resident.name, resident.family)

    def open_adapter(self, model: str, card: AdapterCard) -> Callable[[LoadProgress], OpenAdapter]:
        """Open it for the network of ``model``; touches nothing that batches use."""
        resident = None if isinstance(card, UpscalerCard) else self._models[model]

        def opening(progress: LoadProgress) -> Adapter:
            if isinstance(card, UpscalerCard) or resident is None:
                return open_upscaler(cast("UpscalerCard", card), self._device, progress)
            # Those that are on their way are among the others: several may be opened in one go.
            made = opened.open_adapter(card, resident.family, progress, tuple(self._prompts))
            if isinstance(made, ImagePrompt):
                self._prompts.add(made)
            return made

        def work(progress: LoadProgress) -> OpenAdapter:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            try:
                return opening(progress)
            except AquatintError as error:
                raise _cause(error) from error
            except RuntimeError as error:
                if _is_out_of_memory(error):
                    raise OutOfMemory(str(error)) from error
                if _is_device_fault(error):
                    raise DeviceFault(str(error)) from error
                raise

        return work

    def _finder(self, model: str) -> Find:
        def find(card: AdapterCard) -> Adapter:
            key = self.adapter_key(model, card)
            if key not in self._adapters:
                # Its file has changed since the row was let in: whatever was opened for it does.
                key = next(known for known in reversed(self._adapters) if known[:-1] == key[:-1])
            return self._adapters[key]

        return find

    def install_adapter(self, key: AdapterKey, adapter: OpenAdapter) -> None:
        """Take on what `open_adapter`'s work has made."""
        self._adapters[key] = cast("Adapter", adapter)

    def drop_adapter(self, key: AdapterKey) -> None:
        """Forget it."""
        self._adapters.pop(key, None)
        self.free()

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
        self._conditioning.clear()

    def free(self) -> None:
        """Give the allocator's cache back to the device."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def drop(self, rows: Iterable[RowId]) -> None:
        """Free what is held for these rows."""
        for row in rows:
            self._states.pop(row, None)
            self._enlargements.drop(row)
        self._conditioning.clear()

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
            out_of_memory = _is_out_of_memory(error)
            if not out_of_memory and _is_device_fault(error):
                raise DeviceFault(str(error)) from error
            fault = None if out_of_memory else _report(error)
        except Exception as error:  # noqa: BLE001 - whatever a network raises is one batch's fault, not the process's
            fault = _report(error)
        measured = self._meter.end()
        if out_of_memory:
            self._conditioning.clear()
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
                self._conditioning.clear()
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
        predictions = self._predict(resident.family, states, wanted, batch, work)
        first = 0
        for row, state, own in zip(batch.rows, states, wanted, strict=True):
            last = first + len(own)
            guess = state.advance(predictions[first:last])
            first = last
            work.advanced[row.id] = state.position
            if row.id in batch.previews:
                work.previews[row.id] = resident.previewer.picture(guess)

    def _predict(
        self,
        family: Family,
        states: Sequence[RowState],
        wanted: Sequence[tuple[Evaluation, ...]],
        batch: Batch,
        work: "_Work",
    ) -> torch.Tensor:
        """The network over all evaluations of all rows, in their order; those that skip alike share forwards."""
        flat = [(state, evaluation) for state, own in zip(states, wanted, strict=True) for evaluation in own]
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, (_, evaluation) in enumerate(flat):
            alike.setdefault(evaluation.skip_layers, []).append(index)
        answers = []
        for skipped, indices in alike.items():
            bucket = batch.bucket if len(alike) == 1 else _bucket(len(indices), batch)
            work.padded += max(0, bucket - len(indices))
            answers.append(self._forward(family, [flat[index] for index in indices], skipped, batch.budget, bucket))
        if len(answers) == 1:
            return answers[0]
        order = torch.tensor([index for indices in alike.values() for index in indices])
        return torch.cat(answers)[torch.argsort(order).to(self._device)]

    def _forward(
        self,
        family: Family,
        asked: Sequence[tuple[RowState, Evaluation]],
        skipped: tuple[int, ...],
        budget: int,
        bucket: int,
    ) -> torch.Tensor:
        """Predictions for ``asked``, in forwards of at most the budget, padded to the bucket."""
        inputs = [state.network_input() for state, _ in asked]
        times = [state.solver.timestep for state, _ in asked]
        conditionings = [evaluation.conditioning for _, evaluation in asked]
        additions = [evaluation.additions for _, evaluation in asked]
        wanted = len(inputs)
        spare = max(0, bucket - wanted)
        latents = torch.cat([*inputs, *inputs[-1:] * spare]).to(family.dtype)
        timesteps = self._to_device(times + times[-1:] * spare)
        conditioning = self._stack([*conditionings, *conditionings[-1:] * spare])
        additions += [NOTHING] * spare
        if len(latents) <= budget:
            return evaluate(family, latents, timesteps, conditioning, additions, skip_layers=skipped)[:wanted]
        parts = []
        for at in range(0, len(latents), budget):
            last = at + budget
            own = (latents[at:last], timesteps[at:last], conditioning.rows(at, last), additions[at:last])
            parts.append(evaluate(family, *own, skip_layers=skipped))
        return torch.cat(parts)[:wanted]

    def _stack(self, conditionings: list[Conditioning]) -> Conditioning:
        """The conditionings as one; while a batch keeps its company it is the same one."""
        company = tuple(id(each) for each in conditionings)
        known = self._conditioning.get(company)
        if known is None:
            if len(self._conditioning) >= _STACKS:
                self._conditioning.clear()
            known = self._conditioning[company] = stack(conditionings)
        return known

    def _to_device(self, times: list[float]) -> torch.Tensor:
        """A vector on the device, copied from pinned memory so that the host need not wait."""
        pinned = torch.tensor(times, dtype=torch.float32, pin_memory=self._device.type == "cuda")
        return pinned.to(self._device, non_blocking=True)

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


def _bucket(evaluations: int, batch: Batch) -> int:
    return min((size for size in batch.buckets if evaluations <= size <= batch.budget), default=0)


_NO_ROOM = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""CUDA's caching allocator has a class of its own for it; its libraries and the CPU allocator have only these words."""


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in _NO_ROOM)


def _is_device_fault(error: BaseException) -> bool:
    """After an illegal access or a lost device every later CUDA call fails too."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _cause(error: AquatintError) -> Exception:
    """What a failed load means to the engine: room may help, the device is broken, or neither."""
    cause = error.__cause__
    if cause is None or not isinstance(error, ModelLoadFailed):
        return error
    if _is_out_of_memory(cause):
        return OutOfMemory(str(cause))
    return DeviceFault(str(cause)) if _is_device_fault(cause) else error


def _report(error: BaseException) -> ErrorReport:
    return EngineFailure(f"The network failed: {type(error).__name__}: {error}").report()
