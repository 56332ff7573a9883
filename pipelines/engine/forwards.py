"""The network over the evaluations of a tick: as few forwards as skipping and the budget allow."""

from collections.abc import Sequence

import msgspec
import torch

from pipelines.adapters.additions import NOTHING
from pipelines.adapters.evaluation import evaluate
from pipelines.engine.batch import Batch
from pipelines.engine.state import Evaluation, RowState
from pipelines.families.conditioning import Conditioning, stack
from pipelines.families.family import Family

_STACKS = 4
"""Stacked conditionings kept: keys that take turns on the device each have their own company."""


class Predicted(msgspec.Struct, frozen=True):
    """What the network says."""

    answers: torch.Tensor
    """One for each evaluation, in the rows' order: [N, C, h, w]."""
    padded: int
    """Evaluations that were made for nothing, to fill a bucket."""


class Forwards:
    """Runs them on one device; owns the stacked conditionings of the last few companies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._conditioning: dict[tuple[int, ...], Conditioning] = {}

    def forget(self) -> None:
        """Let go of what is kept: a conditioning in it is gone, and another may come to have its identity."""
        self._conditioning.clear()

    def predict(
        self, family: Family, states: Sequence[RowState], wanted: Sequence[tuple[Evaluation, ...]], batch: Batch
    ) -> Predicted:
        """All evaluations of all rows; those that skip alike share forwards."""
        flat = [(state, evaluation) for state, own in zip(states, wanted, strict=True) for evaluation in own]
        alike: dict[tuple[int, ...], list[int]] = {}
        for index, (_, evaluation) in enumerate(flat):
            alike.setdefault(evaluation.skip_layers, []).append(index)
        answers, padded = [], 0
        for skipped, indices in alike.items():
            bucket = batch.bucket if len(alike) == 1 else _bucket(len(indices), batch)
            padded += max(0, bucket - len(indices))
            answers.append(self._forward(family, [flat[index] for index in indices], skipped, batch.budget, bucket))
        if len(answers) == 1:
            return Predicted(answers[0], padded)
        order = torch.tensor([index for indices in alike.values() for index in indices])
        return Predicted(torch.cat(answers)[torch.argsort(order).to(self._device)], padded)

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


def _bucket(evaluations: int, batch: Batch) -> int:
    return min((size for size in batch.buckets if evaluations <= size <= batch.budget), default=0)
