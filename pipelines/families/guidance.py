"""Guidance as an input of the network: distilled UNets (LCM) know what a scale does, and need no second evaluation."""

import torch

from pipelines.contract.errors import ModelLoadFailed

_PERIOD = 10_000.0
_SCALE = 1000.0


def width(unet: object) -> int | None:
    """How wide ``unet`` wants its guidance embedding; None if it takes none."""
    found: int | None = getattr(unet, "config").get("time_cond_proj_dim")  # noqa: B009 - a module's attributes are untyped
    return found


def embedding(scale: float, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Sinusoids [1, width] of guidance ``scale``, as in diffusers' latent consistency pipelines (arXiv:2310.04378).

    Computed in float32 and in diffusers' order of operations: the angles reach thousands of radians, where the last bit shows.
    """
    half = width // 2
    decay = torch.log(torch.tensor(_PERIOD)) / (half - 1)
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -decay)
    angles = (torch.tensor(scale - 1) * _SCALE)[None, None] * frequencies[None, :]
    waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(waves, (0, width % 2)).to(device=device, dtype=dtype)


def agree(model: str, *, card: bool, weights: bool) -> None:
    """Raise `ModelLoadFailed` unless the card and the weights say the same of embedded guidance."""
    if card == weights:
        return
    says, is_so = (str(value).lower() for value in (card, weights))
    msg = (
        f"Model {model!r}: the card says embedded_guidance: {says}, but the network "
        f"{'takes' if weights else 'does not take'} the guidance scale as an input; write embedded_guidance: {is_so}."
    )
    raise ModelLoadFailed(msg)
