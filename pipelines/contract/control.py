"""What one request takes of the adapters: each image is shaped by its own, whatever it shares its ticks with."""

from enum import StrEnum

import msgspec

from pipelines.contract.adapters import ControlCard, LoraCard, ReferenceCard
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.preprocessing import Options


class LoraUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One LoRA on one request. Weights may be negative; 0 switches that half off."""

    card: LoraCard
    weight: float = 1.0
    """On the denoising network."""
    text_weight: float = 1.0
    """On the text encoders."""


class Balance(StrEnum):
    """Who gives way where prompt and control image disagree; for UNets, SD3's control networks are always balanced.

    The two that are not balanced let the control fade from the coarsest layer to the finest: of n places where it is added, the
    i-th from the finest gets 10 ** (i / (n - 1) - 1) of the weight, a tenth to all of it (A1111's soft weights).
    """

    BALANCED = "balanced"
    """The same weight everywhere."""
    PROMPT = "prompt"
    """The control fades towards the finer layers."""
    CONTROL = "control"
    """It fades likewise, but speaks to the positive prompt only, so that guidance multiplies it: diffusers' ``guess_mode``."""


class ControlUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One control network on one request."""

    card: ControlCard
    picture: Picture
    """The control image, or an ordinary picture if there is a preprocessor."""
    preprocessor: str | None = None
    """Makes the control image of the picture, before the engine is asked: the engine refuses one that is still to be run."""
    weight: float = 1.0
    """0..2."""
    start: float = 0.0
    """Fraction of the steps from which it speaks."""
    end: float = 1.0
    """Fraction of the steps from which it is silent again."""
    balance: Balance = Balance.BALANCED
    resize: Resize = Resize.CROP
    mode: str | None = None
    """UNION: which of the card's modes the picture is."""
    preprocessor_options: Options = {}
    """What the preprocessor is told; without ``resolution`` it works at the size of the image."""


class ReferenceUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures as a prompt through one IP-Adapter.

    Pictures of one use are attended to together, as diffusers does with several images for one adapter; several uses, of the same
    adapter or of others, add up, each with its own weight.
    """

    card: ReferenceCard
    pictures: tuple[Picture, ...]
    weight: float = 0.6
    """0..2."""
    start: float = 0.0
    """Fraction of the steps from which it speaks."""
    end: float = 1.0
    """Fraction of the steps from which it is silent again."""
