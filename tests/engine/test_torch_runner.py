"""How the runner tells apart what went wrong, with a network that fails on demand."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Failed
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.runner import DeviceFault
from pipelines.engine.torch_runner import TorchRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


class Failing:
    """A family whose network raises as long as a row with ``width`` latents is evaluated together with another, or always."""

    def __init__(self, family, error, *, alone_too=True, once=False):
        self._family = family
        self._error = error
        self._alone_too = alone_too
        self._once = once
        self._raised = False

    def __getattr__(self, name):
        return getattr(self._family, name)

    def evaluate(self, latents, timesteps, conditioning, skip_layers=()):
        if (self._alone_too or len(latents) > 1) and not (self._once and self._raised):
            self._raised = True
            raise self._error
        return self._family.evaluate(latents, timesteps, conditioning, skip_layers)


def play(family, names=("a", "b")):
    runner = TorchRunner(torch.device("cpu"))
    runner.add("tiny", family)
    engine = Engine(runner)
    engine.adopt(ModelCard(id="tiny", source="", family=Family.SD))
    events = []
    for seed, name in enumerate(names):
        sampling = Sampling(sampler="euler", steps=3, guidance_scale=1.0)
        events += engine.generate(
            ImageRequest(id=name, model="tiny", prompt="x", width=64, height=64, seeds=(seed,), sampling=sampling)
        )
    while engine.busy:
        events += engine.step()
    ended = {event.id: event for event in events if isinstance(event, (Completed, Failed))}
    return {name: getattr(getattr(ended[name], "error", None), "code", "completed") for name in names}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:20],
)
def test_memory_is_told_from_other_errors(tiny, error):
    assert play(Failing(tiny.family, error)) == {"a": "out_of_memory", "b": "out_of_memory"}
    assert play(Failing(tiny.family, error, alone_too=False)) == {"a": "completed", "b": "completed"}
    assert play(Failing(tiny.family, error, once=True)) == {"a": "completed", "b": "completed"}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
)
def test_a_broken_device_is_raised_not_reported(tiny, error):
    with pytest.raises(DeviceFault, match="CUDA error"):
        play(Failing(tiny.family, error))


def test_an_unexplained_fault_is_the_row_s_own_only_if_it_fails_alone(tiny):
    error = RuntimeError("shapes do not match")
    assert play(Failing(tiny.family, error)) == {"a": "engine_failure", "b": "engine_failure"}
    assert play(Failing(tiny.family, error, once=True)) == {"a": "completed", "b": "completed"}
    assert play(Failing(tiny.family, ValueError("not a RuntimeError"), once=True)) == {"a": "completed", "b": "completed"}


def test_nothing_is_held_for_rows_that_ended(tiny):
    runner = TorchRunner(torch.device("cpu"))
    runner.add("tiny", tiny.family)
    engine = Engine(runner)
    engine.adopt(ModelCard(id="tiny", source="", family=Family.SD))
    sampling = Sampling(sampler="euler", steps=5, guidance_scale=3.0)
    for name in ("done", "cancelled"):
        engine.generate(ImageRequest(id=name, model="tiny", prompt="x", width=64, height=64, seeds=(1, 2), sampling=sampling))
    engine.step()
    engine.step()
    assert len(runner._states) == 4
    engine.cancel("cancelled")
    assert len(runner._states) == 2
    while engine.busy:
        engine.step()
    assert runner._states == {}
    assert runner._forwards._conditioning == {}
