"""The adapters on the device: opened beside the ticks, found by the rows that use them."""

import weakref
from collections.abc import Callable

import torch

from pipelines.adapters import opened
from pipelines.adapters.opened import Adapter, Find
from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.upscaler import open_upscaler
from pipelines.contract.adapters import AdapterCard, UpscalerCard
from pipelines.contract.errors import AquatintError, OutOfMemory
from pipelines.engine import faults
from pipelines.engine.runner import AdapterKey, DeviceFault, LoadProgress
from pipelines.families.family import Family


class Wardrobe:
    """Owns the opened adapters of every model."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._adapters: dict[AdapterKey, Adapter] = {}
        self._prompts: weakref.WeakSet[ImagePrompt] = weakref.WeakSet()
        """IP-Adapters, installed or on their way: they may share an image encoder."""

    def opening(self, card: AdapterCard, family: Family | None) -> Callable[[LoadProgress], Adapter]:
        """Work that opens it, for ``family`` if it is for a model at all; touches nothing that batches use."""

        def work(progress: LoadProgress) -> Adapter:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # each thread has a current device of its own
            try:
                return self._open(card, family, progress)
            except AquatintError as error:
                raise faults.cause(error) from error
            except RuntimeError as error:
                if faults.is_out_of_memory(error):
                    raise OutOfMemory(str(error)) from error
                if faults.is_device_fault(error):
                    raise DeviceFault(str(error)) from error
                raise

        return work

    def install(self, key: AdapterKey, adapter: Adapter) -> None:
        """Take on what `opening`'s work has made."""
        self._adapters[key] = adapter

    def drop(self, key: AdapterKey) -> None:
        """Forget it."""
        self._adapters.pop(key, None)

    def finder(self, key: Callable[[AdapterCard], AdapterKey]) -> Find:
        """How the rows of a model find theirs; ``key`` is that model's."""

        def find(card: AdapterCard) -> Adapter:
            wanted = key(card)
            if wanted not in self._adapters:
                # Its file has changed since the row was let in: whatever was opened for it does.
                wanted = next(known for known in reversed(self._adapters) if known[:-1] == wanted[:-1])
            return self._adapters[wanted]

        return find

    def _open(self, card: AdapterCard, family: Family | None, progress: LoadProgress) -> Adapter:
        if isinstance(card, UpscalerCard):
            return open_upscaler(card, self._device, progress)
        if family is None:
            msg = f"unreachable: {card.name!r} is for a model"
            raise ValueError(msg)
        # Those that are on their way are among the others: several may be opened in one go.
        made = opened.open_adapter(card, family, progress, tuple(self._prompts))
        if isinstance(made, ImagePrompt):
            self._prompts.add(made)
        return made
