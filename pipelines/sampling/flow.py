"""Flow-matching checkpoints: which diffusers scheduler stands behind each sampler id, and how its noise levels are set.

Latents lie on a straight line between picture and noise, ``(1 - sigma) * picture + sigma * noise``, and the network predicts its
direction (https://arxiv.org/abs/2209.03003). Three samplers have classes of their own for that; the multistep solvers take it as
an option. Which ids can do it is said in `pipelines.contract.samplers`; a test holds the two together.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np

from pipelines.contract.errors import Unsupported
from pipelines.contract.samplers import AUTOMATIC, BETA, EXPONENTIAL, KARRAS, SGM_UNIFORM, SIMPLE, SamplerSpec
from pipelines.sampling.samplers import CLASSES

OWN_CLASSES: Mapping[str, str] = {
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "lcm": "FlowMatchLCMScheduler",
}
_SIGMA_FLAGS = {KARRAS: "use_karras_sigmas", EXPONENTIAL: "use_exponential_sigmas", BETA: "use_beta_sigmas"}
_EVEN = (SGM_UNIFORM, SIMPLE)
"""From all noise in even steps to none, before the shift; k-diffusion's two names for it differ only by rounding."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this scheduler ``config`` predicts flow."""
    return config.get("prediction_type") == "flow_prediction"


def build(spec: SamplerSpec, schedule: str | None, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler for ``spec`` over the flow checkpoint's own scheduler ``config``.

    Raises `Unsupported` for a schedule the class does not take, and where the checkpoint shifts its noise levels with the
    image's size in a way the class cannot.
    """
    if schedule is not None and schedule not in spec.flow:
        msg = f"Sampler {spec.id!r} does not support scheduler {schedule!r} for a flow-matching model."
        raise Unsupported(msg, param="scheduler")
    if spec.id in OWN_CLASSES:
        kind, options = getattr(diffusers, OWN_CLASSES[spec.id]), {}
    else:
        name, plain = CLASSES[spec.id]
        kind = getattr(diffusers, name)
        shift = config.get("shift", config.get("flow_shift", 1.0))
        options = {**plain, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if config.get("use_dynamic_shifting") and not _shifts(kind, config):
        msg = f"Sampler {spec.id!r} cannot shift its noise levels with the image's size, which this model needs."
        raise Unsupported(msg, param="sampler")
    accepted = inspect.signature(kind.__init__).parameters
    # Options of another class would stay in the new one's config and be told of in a warning: leave them out.
    own = {name: value for name, value in config.items() if name in accepted}
    return kind.from_config(own, **options, **_flags(schedule, spec, accepted))


def set_steps(scheduler: Any, steps: int, schedule: str | None, tokens: int, config: Mapping[str, Any]) -> None:
    """Set the noise levels for ``steps`` steps of an image of ``tokens`` patches, by the checkpoint's ``config``."""
    options: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        options["mu"] = shift_exponent(tokens, config)
    if schedule in _EVEN:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), device="cpu", **options)
    else:
        scheduler.set_timesteps(steps, device="cpu", **options)


def shift_exponent(tokens: int, config: Mapping[str, Any]) -> float:
    """How far (as a logarithm) the noise levels of an image of ``tokens`` patches are shifted: linear in their number.

    https://arxiv.org/abs/2403.03206, section 5.3.2; the defaults are those of diffusers' pipeline.
    """
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    slope = (high - low) / (many - few)
    exponent: float = tokens * slope + (low - slope * few)
    return exponent


def _shifts(kind: Any, config: Mapping[str, Any]) -> bool:
    """Whether the class can shift with the size, by the checkpoint's own function of it."""
    if "mu" not in inspect.signature(kind.set_timesteps).parameters:
        return False
    return hasattr(kind, "time_shift") or config.get("time_shift_type", "exponential") == "exponential"


def _flags(schedule: str | None, spec: SamplerSpec, accepted: Mapping[str, Any]) -> dict[str, bool]:
    """At most one of the class's sigma options, whatever the checkpoint's config has switched on.

    With None the checkpoint's own stands where the sampler can follow it: the others' would mean a diffusion schedule.
    """
    if schedule in (None, AUTOMATIC):
        unable = [flag for name, flag in _SIGMA_FLAGS.items() if name not in spec.flow]
        return {flag: False for flag in unable if flag in accepted}
    return {flag: name == schedule for name, flag in _SIGMA_FLAGS.items() if flag in accepted}
