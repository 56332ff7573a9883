"""One row's walk from noise to latents, around one diffusers scheduler object of its own.

Everything a scheduler decides with (timesteps, sigmas, its index) stays on the host, and its start index is set beforehand, so
that no step asks the device for a number (``index_for_timestep`` on a device tensor would wait for the stream).
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipelines.contract.errors import InvalidRequest
from pipelines.contract.request import Sampling
from pipelines.contract.samplers import check, check_noise, kept_steps, resolve
from pipelines.sampling import flow
from pipelines.sampling.noise import Noise
from pipelines.sampling.samplers import build


class Schedulers:
    """Makes solvers for one checkpoint; keeps a pristine scheduler of each kind to copy from."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is the checkpoint's own scheduler config, untouched."""
        self._config = dict(config)
        self._flow = flow.is_flow(config)
        self._pristine: dict[tuple[str, str | None], Any] = {}
        self._integrals: dict[tuple[str | None, int], dict[tuple[int, ...], float]] = {}

    def solver(
        self,
        sampling: Sampling,
        noise: Noise,
        *,
        strength: float | None = None,
        start: float | None = None,
        tokens: int = 0,
    ) -> "Solver":
        """A solver for one image; with an input picture, a ``strength`` below 1 leaves out the first steps.

        ``start`` leaves out what another model has done: that fraction of the noise schedule (diffusers' ``denoising_start``).
        ``tokens`` is the number of patches the network cuts the latents into: some flow schedules shift with it.
        Raises what `resolve`, `check` and `check_noise` raise, and `InvalidRequest` when the class refuses the step count.
        """
        spec, schedule = resolve(sampling.sampler, sampling.scheduler, flow=self._flow)
        check(spec, sampling.steps, strength, flow=self._flow)
        check_noise(
            spec,
            zero_snr=bool(self._config.get("rescale_betas_zero_snr", False)),
            prediction_type=str(self._config.get("prediction_type", "epsilon")),
        )
        key = (spec.id, schedule)
        if key not in self._pristine:
            make = flow.build if self._flow else build
            self._pristine[key] = make(spec, schedule, self._config)
        scheduler = copy.deepcopy(self._pristine[key])
        if spec.id == "dpmpp_sde":
            # This class draws from a Brownian tree of its own instead of the generator it is given: seed the tree.
            scheduler.register_to_config(noise_sampler_seed=noise.seed)
            scheduler.noise_sampler_seed = noise.seed
        if spec.id == "lms":
            scheduler.get_lms_coefficient = _remembering(
                scheduler.get_lms_coefficient, self._integrals.setdefault((schedule, sampling.steps), {})
            )
        try:
            if self._flow:
                flow.set_steps(scheduler, sampling.steps, schedule, tokens, self._config)
            else:
                scheduler.set_timesteps(sampling.steps, device="cpu")
        except (ValueError, IndexError, ZeroDivisionError) as error:
            msg = f"Sampler {spec.id!r} cannot run {sampling.steps} steps: {error}"
            raise InvalidRequest(msg, param="steps") from error
        kept = sampling.steps if strength is None else kept_steps(sampling.steps, strength, flow=self._flow)
        begin = (sampling.steps - kept) * scheduler.order
        if start is not None:
            begin = max(begin, _second_half(scheduler, start))
        return Solver(scheduler, noise, begin=begin, steps=kept, whole=sampling.steps)


def _cutoff(scheduler: Any, fraction: float) -> int:
    """The timestep that lies ``fraction`` of the way down the noise schedule."""
    steps: int = scheduler.config.num_train_timesteps
    return round(steps - fraction * steps)


def _second_half(scheduler: Any, start: float) -> int:
    """The index of the first timestep below the cutoff, as diffusers counts it."""
    left = int((scheduler.timesteps < _cutoff(scheduler, start)).sum())
    if scheduler.order == 2 and left % 2 == 0:  # noqa: PLR2004 - in pairs, but for the very first
        left += 1
    return len(scheduler.timesteps) - left


def _remembering(integrate: Callable[..., float], known: dict[tuple[int, ...], float]) -> Callable[..., float]:
    """LMS integrates its coefficients numerically at each step, 6 ms of everybody's tick; they depend on the sigmas only."""

    def coefficient(*which: int) -> float:
        if which not in known:
            known[which] = integrate(*which)
        return known[which]

    return coefficient


class Solver:
    """Owns one scheduler; ``position`` counts model evaluations done of ``total``."""

    __slots__ = ("_extra", "_scheduler", "begin", "noise", "position", "steps", "timesteps", "total", "whole")

    def __init__(self, scheduler: Any, noise: Noise, *, begin: int, steps: int, whole: int) -> None:
        """Take over ``scheduler``, whose timesteps are set for ``whole`` steps; do the last ``steps``, from index ``begin``."""
        self._scheduler = scheduler
        self.noise = noise
        """What the image's random numbers come from; a refiner goes on drawing from it."""
        self.begin = begin
        self.steps = steps
        self.whole = whole
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        self._extra = _step_options(scheduler, noise)
        self.timesteps: torch.Tensor = scheduler.timesteps[begin:]
        self.total = len(self.timesteps)
        self.position = 0

    @property
    def finished(self) -> bool:
        """Whether the latents are final."""
        return self.position >= self.total

    @property
    def timestep(self) -> float:
        """What the network is told about the noise level, in training steps."""
        return float(self.timesteps[self.position])

    def before(self, fraction: float) -> int:
        """How many evaluations come before ``fraction`` of the noise schedule is done (diffusers' ``denoising_end``)."""
        return int((self.timesteps >= _cutoff(self._scheduler, fraction)).sum())

    def initial(self, noise: torch.Tensor) -> torch.Tensor:
        """Latents to begin with when nothing is given: ``noise`` at the scheduler's first sigma."""
        # Flow classes have no such number: they begin with the noise itself.
        initial: torch.Tensor = noise * getattr(self._scheduler, "init_noise_sigma", 1.0)
        return initial

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean ``latents`` brought to the noise level of the current position."""
        at = self.timesteps[self.position : self.position + 1]
        noised: torch.Tensor
        if hasattr(self._scheduler, "scale_noise"):
            noised = self._scheduler.scale_noise(latents, at, noise)
        else:
            noised = self._scheduler.add_noise(latents, noise, at)
        return noised

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` as the network expects them at the current position."""
        if not hasattr(self._scheduler, "scale_model_input"):
            return latents
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self.timesteps[self.position])
        return scaled

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One evaluation further: the new latents and the class's guess at the clean ones (the latents if it has none)."""
        at = self.timesteps[self.position]
        step = self._scheduler.step(prediction, at, latents, **self._extra)
        self.position += 1
        if hasattr(self._scheduler, "scale_noise"):
            # These classes return no guess; their timestep is the share of noise, in thousandths.
            return step.prev_sample, latents - float(at) / self._scheduler.config.num_train_timesteps * prediction
        guess = getattr(step, "pred_original_sample", None)
        if guess is None:
            guess = getattr(step, "denoised", None)
        return step.prev_sample, step.prev_sample if guess is None else guess

    def save(self) -> "Saved":
        """Everything `advance` changes, for `restore`.

        Latent-shaped tensors are copied: PNDM's Runge-Kutta steps add into theirs. Schedules and lists of past outputs are
        never written into, only rebound or appended to.
        """
        state = {name: _kept(value) for name, value in vars(self._scheduler).items()}
        return Saved(state, self.noise.state(), self.position)

    def restore(self, saved: "Saved") -> None:
        """Undo every `advance` since ``saved``; may be used once."""
        vars(self._scheduler).clear()
        vars(self._scheduler).update(saved.scheduler)
        self.noise.restore(saved.noise)
        self.position = saved.position


def _kept(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim > 1:
        return value.clone()
    return list(value) if isinstance(value, list) else value


def _step_options(scheduler: Any, noise: Noise) -> dict[str, Any]:
    """What diffusers' pipelines pass to ``step``: the generator, and eta 0 where the class would choose otherwise (TCD)."""
    offered = {"generator": noise.generator, "eta": 0.0}
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in offered.items() if name in accepted}


class Saved:
    """A point a solver can return to."""

    __slots__ = ("noise", "position", "scheduler")

    def __init__(self, scheduler: dict[str, Any], noise: torch.Tensor, position: int) -> None:
        """Keep references; nothing is copied again."""
        self.scheduler = scheduler
        self.noise = noise
        self.position = position
