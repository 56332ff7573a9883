"""Architectures that checkpoints and adapters are made for."""

from enum import StrEnum


class Family(StrEnum):
    """Architectures the engine can run."""

    SD = "sd"
    """Stable Diffusion 1.x and 2.x: one UNet, one CLIP text encoder."""
    SDXL = "sdxl"
    """Stable Diffusion XL, base or refiner: one UNet, two CLIP text encoders (the refiner: one), pooled embedding, sizes."""
    SD3 = "sd3"
    """Stable Diffusion 3 and 3.5: one transformer (MMDiT), two CLIP text encoders and a T5 that may be left out."""
    FAKE = "fake"
    """No network at all: colour gradients, for tests and for trying the server."""

    @property
    def flow(self) -> bool:
        """Whether its checkpoints are trained by flow matching (https://arxiv.org/abs/2210.02747), not as diffusion."""
        return self is Family.SD3

    @property
    def multiple(self) -> int:
        """Pixels that both sides of an image must be a multiple of: the VAE's 8, times the transformer's patch."""
        return 16 if self is Family.SD3 else 8
