"""Loading in half precision beside the ticks: the default dtype that libraries set while they build reaches no batch."""

import threading

import torch

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
