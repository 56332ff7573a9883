"""Which diffusers scheduler stands behind each sampler id, and with which options."""

from collections.abc import Mapping
from typing import Any

import diffusers

from pipelines.contract.errors import Unsupported
from pipelines.contract.samplers import AUTOMATIC, BETA, EXPONENTIAL, KARRAS, SGM_UNIFORM, SIMPLE, SamplerSpec

CLASSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "ipndm": ("IPNDMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}

_SIGMA_FLAGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

# The correspondence of k-diffusion's schedule names with diffusers' options is the one in diffusers' scheduler overview;
# "simple" and "sgm_uniform" differ in k-diffusion only by rounding to whole timesteps, which diffusers always does.
_SCHEDULE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    KARRAS: {"use_karras_sigmas": True},
    EXPONENTIAL: {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    BETA: {"use_beta_sigmas": True, "timestep_spacing": "linspace"},
    SGM_UNIFORM: {"timestep_spacing": "trailing"},
    SIMPLE: {"timestep_spacing": "trailing"},
}


def build(spec: SamplerSpec, schedule: str | None, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler for ``spec`` over the checkpoint's own scheduler ``config``.

    ``config`` must be the pristine one: ``from_config`` on another scheduler's config leaks that scheduler's options
    (such as ``algorithm_type``) into this one. Raises `Unsupported` for a schedule the class does not take.
    """
    name, options = CLASSES[spec.id]
    return getattr(diffusers, name).from_config(dict(config), **options, **schedule_options(spec, schedule))


def schedule_options(spec: SamplerSpec, schedule: str | None) -> dict[str, Any]:
    """The scheduler options that a schedule name means for a sampler; empty for None: the checkpoint's own stand."""
    if schedule == AUTOMATIC:
        schedule = spec.automatic
    if schedule is None:
        return {}
    if schedule not in spec.schedulers:
        msg = f"Sampler {spec.id!r} does not support scheduler {schedule!r}."
        raise Unsupported(msg, param="scheduler")
    options = dict(_SCHEDULE_OPTIONS[schedule])
    if KARRAS in spec.schedulers:
        # Only one of the three may be set: clear what the checkpoint's config may have switched on.
        options = dict.fromkeys(_SIGMA_FLAGS, False) | options
    return options
