"""Loading in half precision beside the ticks: the default dtype that libraries set while they build reaches no batch."""

import threading

import torch

from pipelines.families import construction
from pipelines.families.assembly import unfilled
from pipelines.families.construction import building, undisturbed


def test_a_batch_never_sees_a_default_that_a_loader_has_set():
    changed, seen = threading.Event(), []

    def load():
        with building(torch.float16):
            torch.set_default_dtype(torch.float16)
            changed.set()
            torch.zeros(200, 200) @ torch.zeros(200, 200)
            torch.set_default_dtype(torch.float32)

    thread = threading.Thread(target=load)
    thread.start()
    assert changed.wait(30)
    with undisturbed():
        seen.append(torch.tensor(0.5).dtype)
    thread.join()
    assert seen == [torch.float32]


def test_building_in_the_default_precision_takes_no_turn():
    entered = threading.Event()

    def load():
        with building(torch.float32):
            entered.set()

    with undisturbed():
        thread = threading.Thread(target=load)
        thread.start()
        assert entered.wait(30)
    thread.join()


def test_builders_take_turns_whatever_their_precision():
    """Both swap functions of torch: the second would keep, and put back, what the first has put in their place."""
    free = []

    def knock():
        free.append(construction._ONE.acquire(blocking=False))

    for dtype in (torch.float32, torch.float16):
        with building(dtype):
            thread = threading.Thread(target=knock)
            thread.start()
            thread.join()
    assert free == [False, False]


def test_a_module_without_weights_is_built_in_turn():
    """Its parameters are registered by a function that is swapped meanwhile."""
    seen = []

    class Noting(torch.nn.Module):
        @classmethod
        def from_config(cls, config):  # noqa: ARG003
            thread = threading.Thread(target=lambda: seen.append(construction._ONE.acquire(blocking=False)))
            thread.start()
            thread.join()
            return cls()

    unfilled(Noting, {})
    assert seen == [False]
