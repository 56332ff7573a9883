"""The tensors of one row, and what one evaluation does to them."""

from dataclasses import dataclass

import msgspec
import torch

from pipelines.adapters.additions import NOTHING, UNSHAPED, Additions, Shaping
from pipelines.contract.request import Init, SkipLayers
from pipelines.engine.row import Course
from pipelines.families.conditioning import Conditioning
from pipelines.sampling.solver import Solver

Timeline = tuple[tuple[int, Conditioning], ...]
"""What one prompt comes to, from which step on; in order, the first from step 0."""


class Evaluation(msgspec.Struct, frozen=True):
    """One evaluation of the network that a row wants in the next tick."""

    conditioning: Conditioning
    skip_layers: tuple[int, ...] = ()
    """Blocks left out; only evaluations that leave out the same ones can share a forward."""
    additions: Additions = NOTHING


@dataclass(slots=True, frozen=True)
class Kept:
    """What is kept outside the mask: clean latents, blended back in after every evaluation.

    A nine-channel network keeps by itself what a mask of black and white keeps, and needs this for a soft one.
    """

    mask: torch.Tensor
    """[1, 1, h, w]; 1 is repainted."""
    latents: torch.Tensor
    """The input's latents, [1, C, h, w], scaled."""
    noise: torch.Tensor
    """The noise the row began with, so that what is kept is as noisy as what is made."""
    soft: bool = False
    """The mask, in float32, is for each latent the share of the steps in which it is repainted: the last ones."""

    def repainted(self, done: float) -> torch.Tensor:
        """What is repainted from here on, [1, 1, h, w] of 0 and 1, when ``done`` (0..1) of the steps are.

        Differential diffusion, https://arxiv.org/abs/2306.00950, algorithm 1, but for what the mask keeps wholly: that is
        kept to the end, where the paper leaves it to the last step. So a soft mask of black and white is a plain one.
        """
        if not self.soft:
            return self.mask
        return ((1 - self.mask <= done) & (self.mask > 0)).to(self.latents.dtype)


@dataclass(slots=True)
class RowState:
    """Mutable; owned by the runner. Every tensor has a batch dimension of one."""

    latents: torch.Tensor
    solver: Solver
    timelines: tuple[Timeline, ...]
    """Negative and positive prompt when guided, else the positive one: one evaluation each."""
    guidance: float
    steps: int = 1
    """Steps to do in all, by which `timelines` count; a step may take several evaluations."""
    guidance_rescale: float = 0.0
    kept: Kept | None = None
    channels: torch.Tensor | None = None
    """Mask and masked picture for a nine-channel network, [1, 5, h, w]: concatenated to the latents."""
    paste: Init | None = None
    """Put this picture's own pixels back outside its mask, once decoded."""
    skip_layers: SkipLayers | None = None
    shaping: Shaping = UNSHAPED
    """What LoRAs, control networks and references do to it."""
    begun: int = 0
    """Evaluations that another model has done before."""
    ahead: int = 0
    """Steps of the passes after this one."""

    def course(self) -> Course:
        """Where the row's way leads, and where it takes one evaluation more: for the scheduler."""
        first, last = self._skipping()
        return Course(self.solver.steps, (self.begun + first, self.begun + last), self.ahead)

    @property
    def position(self) -> int:
        """Evaluations done by all models together."""
        return self.begun + self.solver.position

    @property
    def total(self) -> int:
        """Evaluations that will be done once this solver is at its end."""
        return self.begun + self.solver.total

    @property
    def conditioning(self) -> tuple[Conditioning, ...]:
        """Of each timeline, what holds at the current position."""
        step = self.position * self.steps // self.total
        return tuple(next(told for begins, told in reversed(timeline) if begins <= step) for timeline in self.timelines)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """What the network is to be asked at the current position, in the order that `advance` takes the answers."""
        told = self.conditioning
        at, total = self.solver.position, self.solver.total
        added = [self.shaping.at(at, total, negative=index + 1 < len(told)) for index in range(len(told))]
        asked = tuple(Evaluation(part, additions=own) for part, own in zip(told, added, strict=True))
        first, last = self._skipping()
        if self.skip_layers is None or not first <= at < last:
            return asked
        return (*asked, Evaluation(told[-1], self.skip_layers.layers, added[-1]))

    def network_input(self) -> torch.Tensor:
        """The latents as the network wants them now."""
        scaled = self.solver.scaled(self.latents)
        return scaled if self.channels is None else torch.cat([scaled, self.channels.to(scaled.dtype)], dim=1)

    def advance(self, predictions: torch.Tensor) -> torch.Tensor:
        """Take the predictions for `evaluations`, in order, one position further; returns the guess at clean latents.

        The latents change only if every part succeeded; otherwise the row is as before.
        """
        saved = self.solver.save()
        try:
            latents, guess = self.solver.advance(self._guided(predictions), self.latents)
            if self.kept is not None:
                latents = self._blend(self.kept, latents)
        except BaseException:
            self.solver.restore(saved)
            raise
        self.latents = latents
        return guess

    def _guided(self, predictions: torch.Tensor) -> torch.Tensor:
        """One prediction of the evaluations' [e, C, h, w]: classifier-free guidance, https://arxiv.org/abs/2207.12598."""
        if len(self.timelines) == 1:
            return predictions
        negative, positive = predictions[:1], predictions[1:2]
        guided = negative + self.guidance * (positive - negative)
        if self.guidance_rescale > 0.0:
            # https://arxiv.org/abs/2305.08891, section 3.4
            axes = tuple(range(1, guided.ndim))
            rescaled = guided * (positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
            guided = self.guidance_rescale * rescaled + (1 - self.guidance_rescale) * guided
        if self.skip_layers is not None and len(predictions) > len(self.conditioning):
            guided = guided + (positive - predictions[2:3]) * self.skip_layers.scale
        return guided

    def _skipping(self) -> tuple[int, int]:
        """Positions, half open, at which skip-layer guidance is due: only with guidance, as in diffusers.

        Counted over the whole schedule, in evaluations against steps, as diffusers' txt2img pipeline does (its others have none).
        """
        skip, whole = self.skip_layers, self.solver.whole
        if skip is None or len(self.conditioning) == 1:
            return (0, 0)
        due = [
            position
            for position in range(self.solver.total)
            if whole * skip.start < self.solver.begin + position < whole * skip.stop
        ]
        return (due[0], due[-1] + 1) if due else (0, 0)

    def _blend(self, kept: Kept, latents: torch.Tensor) -> torch.Tensor:
        original = kept.latents
        if not self.solver.finished:
            original = self.solver.noised(original, kept.noise)
        mask = kept.repainted(self.position / self.total)
        return (1 - mask) * original + mask * latents
