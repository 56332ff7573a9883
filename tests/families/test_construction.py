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


def test_builders_take_turns_whatever_their_precision():
    """Both swap functions of torch: the second would keep, and put back, what the first has put in their place."""
    first, second, order = threading.Event(), threading.Event(), []

    def load(dtype, mine, wait):
        with building(dtype):
            order.append(("in", dtype))
            mine.set()
            if wait:
                second.wait(0.2)  # the other has every chance to come in
            order.append(("out", dtype))

    threads = [threading.Thread(target=load, args=(torch.float32, first, True))]
    threads[0].start()
    assert first.wait(30)
    threads.append(threading.Thread(target=load, args=(torch.float16, second, False)))
    threads[1].start()
    for thread in threads:
        thread.join()
    assert [what for what, _ in order] == ["in", "out", "in", "out"]
