"""The tensors of one row, and what one evaluation does to them."""

from dataclasses import dataclass

import torch

from pipelines.contract.request import Init
from pipelines.sampling.solver import Solver


@dataclass(slots=True, frozen=True)
class Kept:
    """What a four-channel network keeps outside the mask: clean latents, blended back in after every evaluation."""

    mask: torch.Tensor
    """[1, 1, h, w]; 1 is repainted."""
    latents: torch.Tensor
    """The input's latents, [1, C, h, w], scaled."""
    noise: torch.Tensor
    """The noise the row began with, so that what is kept is as noisy as what is made."""


@dataclass(slots=True)
class RowState:
    """Mutable; owned by the runner. Every tensor has a batch dimension of one."""

    latents: torch.Tensor
    solver: Solver
    embeddings: tuple[torch.Tensor, ...]
    """Negative and positive prompt when guided, else the positive one: one evaluation each."""
    guidance: float
    kept: Kept | None = None
    channels: torch.Tensor | None = None
    """Mask and masked picture for a nine-channel network, [1, 5, h, w]: concatenated to the latents."""
    paste: Init | None = None
    """Put this picture's own pixels back outside its mask, once decoded."""

    def network_input(self) -> torch.Tensor:
        """The latents as the network wants them now."""
        scaled = self.solver.scaled(self.latents)
        return scaled if self.channels is None else torch.cat([scaled, self.channels.to(scaled.dtype)], dim=1)

    def advance(self, predictions: torch.Tensor) -> torch.Tensor:
        """Take the predictions for `embeddings`, in order, one evaluation further; returns the guess at clean latents.

        The latents change only if every part succeeded; otherwise the row is as before.
        """
        saved = self.solver.save()
        try:
            prediction = predictions
            if len(self.embeddings) == 2:  # noqa: PLR2004 - negative and positive
                # Classifier-free guidance, https://arxiv.org/abs/2207.12598
                negative, positive = predictions.chunk(2)
                prediction = negative + self.guidance * (positive - negative)
            latents, guess = self.solver.advance(prediction, self.latents)
            if self.kept is not None:
                latents = self._blend(self.kept, latents)
        except BaseException:
            self.solver.restore(saved)
            raise
        self.latents = latents
        return guess

    def _blend(self, kept: Kept, latents: torch.Tensor) -> torch.Tensor:
        original = kept.latents
        if not self.solver.finished:
            original = self.solver.noised(original, kept.noise)
        return (1 - kept.mask) * original + kept.mask * latents
