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
from pipelines.sampling.noise import Noise
from pipelines.sampling.samplers import build


class Schedulers:
    """Makes solvers for one checkpoint; keeps a pristine scheduler of each kind to copy from."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is the checkpoint's own scheduler config, untouched."""
        self._config = dict(config)
        self._pristine: dict[tuple[str, str | None], Any] = {}
        self._integrals: dict[tuple[str | None, int], dict[tuple[int, ...], float]] = {}

    def solver(self, sampling: Sampling, noise: Noise, *, strength: float | None = None) -> "Solver":
        """A solver for one image; with an input picture, a ``strength`` below 1 leaves out the first steps.

        Raises what `check` and `check_noise` raise, and `InvalidRequest` when the class refuses the step count.
        """
        spec, schedule = resolve(sampling.sampler, sampling.scheduler)
        check(spec, sampling.steps, strength)
        check_noise(
            spec,
            zero_snr=bool(self._config.get("rescale_betas_zero_snr", False)),
            prediction_type=str(self._config.get("prediction_type", "epsilon")),
        )
        key = (spec.id, schedule)
        if key not in self._pristine:
            self._pristine[key] = build(spec, schedule, self._config)
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
            scheduler.set_timesteps(sampling.steps, device="cpu")
        except (ValueError, IndexError, ZeroDivisionError) as error:
            msg = f"Sampler {spec.id!r} cannot run {sampling.steps} steps: {error}"
            raise InvalidRequest(msg, param="steps") from error
        skipped = 0 if strength is None else sampling.steps - kept_steps(sampling.steps, strength)
        return Solver(scheduler, noise, skipped * scheduler.order)


def _remembering(integrate: Callable[..., float], known: dict[tuple[int, ...], float]) -> Callable[..., float]:
    """LMS integrates its coefficients numerically at each step, 6 ms of everybody's tick; they depend on the sigmas only."""

    def coefficient(*which: int) -> float:
        if which not in known:
            known[which] = integrate(*which)
        return known[which]

    return coefficient


class Solver:
    """Owns one scheduler; ``position`` counts model evaluations done of ``total``."""

    __slots__ = ("_extra", "_noise", "_scheduler", "position", "timesteps", "total")

    def __init__(self, scheduler: Any, noise: Noise, begin: int) -> None:
        """Take over ``scheduler``, whose timesteps are set, and start at index ``begin``."""
        self._scheduler = scheduler
        self._noise = noise
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

    def initial(self, noise: torch.Tensor) -> torch.Tensor:
        """Latents to begin with when nothing is given: ``noise`` at the scheduler's first sigma."""
        initial: torch.Tensor = noise * self._scheduler.init_noise_sigma
        return initial

    def noised(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean ``latents`` brought to the noise level of the current position."""
        at = self.timesteps[self.position : self.position + 1]
        noised: torch.Tensor = self._scheduler.add_noise(latents, noise, at)
        return noised

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` as the network expects them at the current position."""
        scaled: torch.Tensor = self._scheduler.scale_model_input(latents, self.timesteps[self.position])
        return scaled

    def advance(self, prediction: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One evaluation further: the new latents and the class's guess at the clean ones (the latents if it has none)."""
        step = self._scheduler.step(prediction, self.timesteps[self.position], latents, **self._extra)
        self.position += 1
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
        return Saved(state, self._noise.state(), self.position)

    def restore(self, saved: "Saved") -> None:
        """Undo every `advance` since ``saved``; may be used once."""
        vars(self._scheduler).clear()
        vars(self._scheduler).update(saved.scheduler)
        self._noise.restore(saved.noise)
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
