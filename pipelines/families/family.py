"""What the engine asks of a loaded model, whatever its architecture."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec
import torch

from pipelines.contract.catalog import Emphasis, ModelFacts
from pipelines.contract.request import ImageRequest
from pipelines.families.autoencoder import Autoencoder
from pipelines.families.conditioning import Conditioning
from pipelines.families.inversion import Inversion
from pipelines.families.residuals import NONE, Residuals
from pipelines.prompts.fragments import Wording


class Change(Protocol):
    """What changes the text encoders for some prompts: LoRAs. Equal changes give equal embeddings."""

    def applied(self) -> AbstractContextManager[None]:
        """Inside the block the text encoders are changed."""
        ...

    def __hash__(self) -> int:
        """Prompts are keys."""
        ...


class Prompt(msgspec.Struct, frozen=True):
    """One text to encode; equal prompts have equal embeddings, so this is also the cache key."""

    text: str
    """The words alone, for encoders without weights; empty if there are none."""
    clip_skip: int = 0
    negative: bool = False
    """Some families treat an empty negative prompt differently from an empty positive one."""
    wording: Wording = ()
    """The words with weights and breaks; empty means `text` as it stands."""
    emphasis: Emphasis = Emphasis.ORIGINAL
    learned: tuple[Inversion, ...] = ()
    """What the learned words of `wording` stand for."""
    change: Change | None = None
    """What is done to the text encoders while they read it."""


class Family(Protocol):
    """One loaded checkpoint. All tensors are on `device`; batch dimensions come first; no method keeps state."""

    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype
    scheduler_config: Mapping[str, Any]
    """The checkpoint's own scheduler config, with what the card says over it."""
    vae: Autoencoder
    network: Any
    """The denoising network, a `torch.nn.Module`: what attention backends, quantisation and compilation are applied to."""
    text_encoders: Mapping[str, Any]
    """The modules that read prompts, by diffusers' names: ``text_encoder``, ``text_encoder_2``, ``text_encoder_3``."""
    max_clip_skip: int
    """How many of the text encoder's last layers may be left out."""

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Conditioning]:
        """What the text encoders make of each prompt; batch dimension 1."""
        ...

    def condition(self, encoded: Conditioning, request: ImageRequest, *, negative: bool) -> Conditioning:
        """``encoded`` with what this one image adds (sizes, embedded guidance); ``encoded`` itself if it adds nothing."""
        ...

    def forwards(self, conditioning: Conditioning) -> Sequence[tuple[Sequence[int], Conditioning]]:
        """The rows that a forward each is needed for, with their conditioning: all in one unless it cannot be."""
        ...

    def evaluate(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        skip_layers: tuple[int, ...] = (),
        residuals: Residuals = NONE,
    ) -> torch.Tensor:
        """The network's prediction [n, C, h, w] for n rows with a timestep [n] and a conditioning each, and what controls add.

        Rows that need `forwards` of their own get them here too.
        """
        ...
