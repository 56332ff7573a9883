"""A training loop that can be stopped and goes on where it was, on every core."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scripts.demo.recipe import STATE

WORKERS = 2
AVERAGE_EVERY = 4

# Loss of one worker's share of one step; a function of the step's number and the worker's rank alone.
Loss = Callable[[int, int], Tensor]


def bfloat16_is_fast() -> bool:
    """Say whether this CPU multiplies bfloat16 in hardware; where it does not, autocast is ten times slower, not faster."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast() -> torch.autocast:
    """Return the precision that trains fastest here."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast())


@dataclass(slots=True)
class Budget:
    """How long a phase trains: steps if given, else minutes."""

    minutes: float
    steps: int | None = None


class Trainer:
    """Optimiser, moving average, schedule and state file around one loss function of a step's number.

    Two processes of one thread each, which meet once per step, do a third more than one process of two threads, which meet
    after every operation; on a machine that does other work as well, several times more.
    """

    def __init__(
        self,
        name: str,
        modules: dict[str, nn.Module],
        budget: Budget,
        *,
        rate: float,
        decay: float,
        average: float,
        workers: int = WORKERS,
    ) -> None:
        self.path = STATE / f"{name}.pt"
        self.name, self.modules, self.budget = name, modules, budget
        self.rate, self.average, self.workers = rate, average, workers
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay, fused=True)
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            self.load()

    def load(self) -> None:
        """Go back to where the state file was written."""
        state = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.shadow = state["shadow"]
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the state file; an interrupted write leaves the old one."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "shadow": self.shadow,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def use_average(self) -> None:
        """Put the moving average of the weights into the modules."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.shadow)

    @property
    def progress(self) -> float:
        """Return the part of the budget that is spent, 0 to 1."""
        return self.step / self.budget.steps if self.budget.steps else self.seconds / (60 * self.budget.minutes)

    def run(self, loss_of: Loss, log_every: int = 50) -> None:
        """Train until the budget is spent."""
        fork = multiprocessing.get_context("fork")
        for module in self.modules.values():
            module.share_memory()
        helpers: list[Helper] = []
        for rank in range(1, self.workers):
            gradients = [torch.zeros_like(p).share_memory_() for p in self.parameters]
            ours, theirs = fork.Pipe()
            share = Share(rank, self.workers)
            process = fork.Process(target=assist, args=((theirs, ours), self.parameters, gradients, loss_of, share), daemon=True)
            process.start()
            theirs.close()
            helpers.append(Helper(process, ours, gradients))
        recent: list[float] = []
        saved = time.monotonic()
        total = self.budget.steps or round(self.budget.minutes * 60)
        bar = tqdm(total=total, desc=self.name, unit="step" if self.budget.steps else "s", mininterval=20)
        bar.update(self.step if self.budget.steps else int(self.seconds))
        while self.progress < 1:
            began = time.monotonic()
            recent.append(self.advance(loss_of, helpers))
            spent = time.monotonic() - began
            self.seconds += spent
            bar.update(1 if self.budget.steps else int(self.seconds) - int(self.seconds - spent))
            if self.step % log_every == 0:
                bar.set_postfix(step=self.step, loss=f"{np.mean(recent):.4f}")
                with (STATE / f"{self.name}.log").open("a", encoding="utf-8") as log:
                    log.write(f"{self.step}\t{self.seconds:.0f}\t{np.mean(recent):.5f}\n")
                recent.clear()
            if time.monotonic() - saved > 150:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.save()
        for helper in helpers:
            helper.pipe.send(None)
            helper.process.join()

    def advance(self, loss_of: Loss, helpers: Sequence[Helper]) -> float:
        """Take one step; every worker has computed its share of the batch by the end of it."""
        warmth = min(1.0, (self.step + 1) / 150)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * warmth * max(0.005, 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress)))
        for helper in helpers:
            helper.pipe.send(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of(self.step, 0)
        (loss / self.workers).backward()
        losses = [loss.item(), *(helper.pipe.recv() for helper in helpers)]
        with torch.no_grad():
            own = [p.grad for p in self.parameters if p.grad is not None]
            for helper in helpers:
                torch._foreach_add_(own, helper.gradients)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            # The average follows quickly at first, when the weights still move fast.
            keep = min(self.average, self.step / (self.step + 9)) ** AVERAGE_EVERY
            with torch.no_grad():
                torch._foreach_lerp_(self.shadow, self.parameters, 1 - keep)
        return sum(losses) / len(losses)


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each batch a process computes."""

    rank: int
    workers: int


@dataclass(slots=True)
class Helper:
    """Another process that computes its share of each batch, with the shared memory its gradients arrive in."""

    process: BaseProcess
    pipe: Connection
    gradients: list[Tensor]


def assist(
    ends: tuple[Connection, Connection],
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    loss_of: Loss,
    share: Share,
) -> None:
    """Compute a share of each batch until told to stop. The weights are shared memory: the first process alone moves them."""
    pipe, other_end = ends
    other_end.close()  # inherited; while it is open here, nobody would notice that the first process is gone
    while (step := received(pipe)) is not None:
        loss = loss_of(step, share.rank)
        (loss / share.workers).backward()
        with torch.no_grad():
            torch._foreach_copy_(list(gradients), [p.grad for p in parameters if p.grad is not None])
        for p in parameters:
            p.grad = None
        pipe.send(loss.item())


def received(pipe: Connection) -> int | None:
    """Return the next step's number; None when there is none, or nobody left to ask."""
    try:
        step: int | None = pipe.recv()
    except EOFError:
        return None
    return step
