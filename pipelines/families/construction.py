"""Modules are built in half precision without anybody else noticing.

diffusers and transformers set torch's default dtype while `from_pretrained` builds and fills a module, and that default is one
for the whole process: a batch computed at the same time would make its own tensors in half precision. So both take turns.
Building in the default precision disturbs no batch and needs no turn, nor does filling a module that was built without weights.

Builders take turns with each other whatever the precision: those libraries also swap functions of torch while they build (how
parameters are registered, how they are initialised), and two at once would put back the wrong ones.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TURN = threading.RLock()
"""Module-level because what it guards is: torch's default dtype belongs to the process."""

_ONE = threading.RLock()
"""Likewise for torch's functions; taken before `_TURN` by whoever needs both."""


@contextmanager
def building(dtype: torch.dtype) -> Iterator[None]:
    """Within it a module of ``dtype`` may be built, by `from_pretrained` or without weights.

    Other builders wait; batches wait too, unless ``dtype`` is the default anyway.
    """
    with _ONE:
        if dtype is torch.float32:
            yield
            return
        with _TURN:
            yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it torch's default dtype is what it always is."""
    with _TURN:
        yield
