"""Sampler and schedule ids, and every spelling that clients use for them.

The table lives in the contract because the server must refuse a wrong name before any work, without torch. Which diffusers class
stands behind an id is `pipelines.sampling.samplers`; a test holds the two together.
"""

import re
from functools import cache

import msgspec

from pipelines.contract.errors import InvalidRequest, TooLarge, UnknownSampler, Unsupported

KARRAS, EXPONENTIAL, BETA = "karras", "exponential", "beta"
SGM_UNIFORM, SIMPLE, AUTOMATIC = "sgm_uniform", "simple", "automatic"

SCHEDULERS = (AUTOMATIC, KARRAS, EXPONENTIAL, BETA, SGM_UNIFORM, SIMPLE)

_SPACING = frozenset({AUTOMATIC, SGM_UNIFORM, SIMPLE})
_SIGMAS = _SPACING | {KARRAS, EXPONENTIAL, BETA}
_OWN = frozenset({AUTOMATIC})


class SamplerSpec(msgspec.Struct, frozen=True):
    """One sampler: its id, its name in AUTOMATIC1111, the schedules it takes and what ``automatic`` means for it."""

    id: str
    label: str
    schedulers: frozenset[str]
    automatic: str | None = None
    """The schedule A1111 picks for it; None: the checkpoint's own options."""
    aliases: tuple[str, ...] = ()
    """Further spellings, in the normal form of `_normal`."""
    img2img: bool = True
    """Whether the class can add noise to a given picture at a given step."""
    max_steps: int = 1000
    """A distilled sampler cannot run more steps than the teacher's schedule has."""
    flow: frozenset[str] = frozenset()
    """The schedules it takes for a flow-matching model (SD3); empty: it cannot run one. There ``automatic`` always means the
    checkpoint's own."""
    zero_snr: bool = False
    """Whether the class can begin at pure noise (zero terminal signal-to-noise ratio, arXiv:2305.08891)."""
    predictions: bool = True
    """Whether the class heeds what the network predicts; if not, it takes every prediction for noise."""


SAMPLERS: tuple[SamplerSpec, ...] = (
    SamplerSpec("euler", "Euler", _SIGMAS, flow=_SIGMAS, zero_snr=True),
    SamplerSpec("euler_a", "Euler a", _SPACING, aliases=("euler_ancestral",), zero_snr=True),
    SamplerSpec("heun", "Heun", _SIGMAS, flow=_OWN),
    SamplerSpec("dpm2", "DPM2", _SIGMAS, KARRAS, aliases=("dpm_2", "kdpm2")),
    SamplerSpec("dpm2_a", "DPM2 a", _SIGMAS, KARRAS, aliases=("dpm_2_a", "dpm_2_ancestral", "dpm2_ancestral", "kdpm2_a")),
    SamplerSpec("lms", "LMS", _SIGMAS),
    SamplerSpec("ddim", "DDIM", _SPACING, zero_snr=True),
    SamplerSpec("ddpm", "DDPM", _SPACING, zero_snr=True),
    SamplerSpec("pndm", "PLMS", _SPACING, aliases=("plms",)),
    SamplerSpec("unipc", "UniPC", _SIGMAS, aliases=("uni_pc", "uni_pc_bh2"), flow=_SPACING | {KARRAS}, zero_snr=True),
    SamplerSpec("deis", "DEIS", _SIGMAS),
    SamplerSpec("ipndm", "iPNDM", frozenset({AUTOMATIC}), img2img=False, predictions=False),
    SamplerSpec("dpmpp_2m", "DPM++ 2M", _SIGMAS, KARRAS, flow=_OWN, zero_snr=True),
    SamplerSpec("dpmpp_2m_sde", "DPM++ 2M SDE", _SIGMAS, EXPONENTIAL, aliases=("dpmpp_2m_sde_gpu",), flow=_OWN, zero_snr=True),
    SamplerSpec("dpmpp_3m", "DPM++ 3M", _SIGMAS, KARRAS, flow=_OWN, zero_snr=True),
    SamplerSpec("dpmpp_3m_sde", "DPM++ 3M SDE", _SIGMAS, EXPONENTIAL, aliases=("dpmpp_3m_sde_gpu",), flow=_OWN, zero_snr=True),
    SamplerSpec("dpmpp_sde", "DPM++ SDE", _SIGMAS, KARRAS, aliases=("dpmpp_sde_gpu",)),
    SamplerSpec("dpmpp_2s", "DPM++ 2S a", _SIGMAS, KARRAS, aliases=("dpmpp_2s_a", "dpmpp_2s_ancestral"), flow=_OWN),
    SamplerSpec("lcm", "LCM", _SPACING, max_steps=50, flow=_SIGMAS, zero_snr=True),
    SamplerSpec("tcd", "TCD", _SPACING, max_steps=50, zero_snr=True),
)

_SUFFIXES = {
    "karras": KARRAS,
    "ka": KARRAS,
    "exponential": EXPONENTIAL,
    "exp": EXPONENTIAL,
    "beta": BETA,
    "sgm_uniform": SGM_UNIFORM,
    "simple": SIMPLE,
    "automatic": AUTOMATIC,
}


def resolve(sampler: str, scheduler: str | None = None, *, flow: bool = False) -> tuple[SamplerSpec, str | None]:
    """The sampler and schedule that a client means, in any spelling; ``flow`` for a flow-matching model.

    A schedule may be part of the sampler's name ("DPM++ 2M Karras", "k_dpmpp_2m_ka"); ``scheduler`` wins over it.
    Raises `UnknownSampler` for a name nobody knows and `Unsupported` for a schedule the sampler's class does not take, or a
    sampler that cannot run such a model.
    """
    by_name = _names()
    name = _normal(sampler)
    suffixed: str | None = None
    if name not in by_name:
        for suffix, meaning in _SUFFIXES.items():
            if name.endswith(f"_{suffix}") and name.removesuffix(f"_{suffix}") in by_name:
                name, suffixed = name.removesuffix(f"_{suffix}"), meaning
                break
        else:
            known = ", ".join(spec.id for spec in SAMPLERS)
            msg = f"There is no sampler {sampler!r}; known are {known}."
            raise UnknownSampler(msg, param="sampler")
    spec = by_name[name]
    if flow and not spec.flow:
        able = ", ".join(each.id for each in SAMPLERS if each.flow)
        msg = f"Sampler {spec.id!r} cannot run a flow-matching model; these can: {able}."
        raise Unsupported(msg, param="sampler")
    return spec, _schedule(spec, scheduler, suffixed, spec.flow if flow else spec.schedulers)


def kept_steps(steps: int, strength: float, *, flow: bool = False) -> int:
    """How many of ``steps`` are run from a picture at ``strength`` (0..1); the first ones are left out.

    As in diffusers: its older pipelines round the steps that are run down, those of flow-matching models the ones left out.
    """
    if flow:
        return steps - int(max(steps - min(steps * strength, steps), 0))
    return min(int(steps * strength), steps)


def check(spec: SamplerSpec, steps: int, strength: float | None, *, flow: bool = False) -> None:
    """Refuse what ``spec`` cannot do, before any work; ``strength`` is None without an input picture.

    Raises `TooLarge` for more steps than the sampler has, `Unsupported` if it cannot start from a picture, and
    `InvalidRequest` if strength leaves no step.
    """
    if steps > spec.max_steps and not flow:
        msg = f"Sampler {spec.id!r} runs at most {spec.max_steps} steps, not {steps}."
        raise TooLarge(msg, param="steps")
    if strength is None:
        return
    if not spec.img2img:
        msg = f"Sampler {spec.id!r} cannot start from a picture."
        raise Unsupported(msg, param="sampler")
    if kept_steps(steps, strength, flow=flow) < 1:
        msg = f"With strength {strength:g}, none of the {steps} steps is left; raise steps or strength."
        raise InvalidRequest(msg, param="strength")


def check_noise(spec: SamplerSpec, *, zero_snr: bool, prediction_type: str = "epsilon") -> None:
    """Refuse a sampler that would misread the checkpoint's noise schedule, and so draw wrong pictures.

    Raises `Unsupported`.
    """
    if zero_snr and not spec.zero_snr:
        able = ", ".join(each.id for each in SAMPLERS if each.zero_snr)
        msg = f"Sampler {spec.id!r} cannot run a model with zero terminal signal-to-noise ratio; these can: {able}."
        raise Unsupported(msg, param="sampler")
    if prediction_type != "epsilon" and not spec.predictions:
        msg = f"Sampler {spec.id!r} cannot run a model whose prediction type is {prediction_type!r}, only 'epsilon'."
        raise Unsupported(msg, param="sampler")


def _schedule(spec: SamplerSpec, asked: str | None, suffixed: str | None, taken: frozenset[str]) -> str | None:
    if asked is None:
        chosen = suffixed
    else:
        normal = _normal(asked)
        chosen = {"uniform": None, "normal": None, "": None}.get(normal, _SUFFIXES.get(normal, normal))
        if chosen is not None and chosen not in SCHEDULERS:
            msg = f"There is no scheduler {asked!r}; known are {', '.join(SCHEDULERS)}."
            raise UnknownSampler(msg, param="scheduler")
    if chosen is not None and chosen not in taken:
        able = ", ".join(name for name in SCHEDULERS if name in taken)
        msg = f"Sampler {spec.id!r} does not support scheduler {chosen!r}; it takes {able}."
        raise Unsupported(msg, param="scheduler")
    return chosen


def _normal(name: str) -> str:
    """Lower case, ``++`` as ``pp``, words joined by ``_``, without k-diffusion's ``k_`` in front."""
    words = re.sub(r"[^a-z0-9]+", "_", name.strip().lower().replace("++", "pp")).strip("_")
    return words.removeprefix("k_").removeprefix("sample_")


@cache
def _names() -> dict[str, SamplerSpec]:
    return {spelling: spec for spec in SAMPLERS for spelling in (spec.id, _normal(spec.label), *spec.aliases)}
