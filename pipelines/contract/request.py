"""One image request, as every dialect translates into it and as the engine runs it."""

from enum import IntEnum

import msgspec

from pipelines.contract.adapters import AdapterCard
from pipelines.contract.control import ControlUse, LoraUse, ReferenceUse
from pipelines.contract.enlarging import Hires, Upscale
from pipelines.contract.inpainting import Margins, Masking
from pipelines.contract.picture import Picture, Resize

PLACE = "{prompt}"
"""Stands in a style's template where the words asked for go."""


class Priority(IntEnum):
    """Who goes first: a person waiting, ordinary API work, or a batch that may take the night."""

    INTERACTIVE = 0
    NORMAL = 1
    BULK = 2


class SkipLayers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Skip-layer guidance of SD 3.5: a third evaluation with some blocks left out, pushed away from."""

    layers: tuple[int, ...]
    """Indices of transformer blocks."""
    scale: float = 2.8
    start: float = 0.01
    """Fraction of the steps up to which it is off; steps that strength leaves out count too."""
    stop: float = 0.2
    """Fraction of the steps from which it is off again."""


class Refiner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second model that takes over an image's latents before they are clean."""

    model: str
    switch_at: float = 0.8
    """0 < switch_at < 1: the fraction of the noise schedule that the first model does."""


class SizeConditioning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What SDXL is told of an imagined original picture (arXiv:2307.01952 §2.2), in pixels; None is the size asked for."""

    original: tuple[int, int] | None = None
    """Width and height before training would have scaled it."""
    crop: tuple[int, int] = (0, 0)
    """Left and top of training's crop."""
    target: tuple[int, int] | None = None
    """Width and height after it."""
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5
    """Refiner only."""


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the noise is removed: canonical ids of `pipelines.contract.samplers`."""

    sampler: str
    steps: int
    guidance_scale: float
    """Classifier-free guidance (arXiv:2207.12598); at 1.0 or below the image costs one evaluation per step, else two."""
    scheduler: str | None = None
    """Noise schedule; None keeps the checkpoint's own options."""
    guidance_rescale: float = 0.0
    """0..1: how much of the guided prediction's contrast is brought back to the unguided one's (arXiv:2305.08891 §3.4)."""
    embedded_guidance: bool = False
    """The network itself takes the guidance scale: one evaluation whatever the scale."""
    skip_layers: SkipLayers | None = None

    @property
    def guided(self) -> bool:
        """Whether a negative (or empty) prompt is evaluated too."""
        return self.guidance_scale > 1.0 and not self.embedded_guidance


class Init(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The picture to begin from (img2img), or to keep outside the mask (inpaint)."""

    picture: Picture
    strength: float = 0.8
    """0 < strength <= 1: the share of the steps that is run; 1 forgets the picture, but for what a mask keeps.
    0, with `ImageRequest.upscale` or `ImageRequest.hires`: nothing is drawn before that, the picture itself is made larger."""
    resize: Resize = Resize.CROP
    mask: Picture | None = None
    """Mode L, any size; 128 and above is repainted, below is kept (binarised as in diffusers); `masking` may say otherwise."""
    masking: Masking = Masking()
    outpaint: Margins | None = None
    """Grow the picture by these margins first; the margins are repainted, with or without a mask."""
    keep_unmasked: bool = False
    """Put the input's own pixels back where the mask keeps them, instead of their copy through the VAE."""

    @property
    def inpaints(self) -> bool:
        """Whether a part of the picture is kept: there is a mask, or margins are added."""
        return self.mask is not None or self.outpaint is not None

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of the picture with its margins."""
        size = (self.picture.width, self.picture.height)
        return size if self.outpaint is None else self.outpaint.around(*size)


class Style(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named look: words around the prompt, and after the negative prompt."""

    name: str
    prompt: str
    """With `PLACE` once."""
    negative: str = ""


class ImageRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides the pixels of ``len(seeds)`` images; equal requests give equal images."""

    id: str
    model: str
    prompt: str
    """As it was sent, but for its LoRA tags; the engine reads `styled_prompt`."""
    width: int
    """Pixels, a multiple of 8 (16 for SD3)."""
    height: int
    seeds: tuple[int, ...]
    """One image per seed, 0 <= seed < 2**64; each seeds a CPU generator, as in diffusers."""
    sampling: Sampling
    negative_prompt: str = ""
    style: Style | None = None
    init: Init | None = None
    clip_skip: int = 0
    """Leave out that many last layers of the text encoder (diffusers' meaning; A1111's value is one higher)."""
    loras: tuple[LoraUse, ...] = ()
    """Each name once; those that prompts ask for in tags are among them, and the tags are gone from the prompts."""
    controls: tuple[ControlUse, ...] = ()
    references: tuple[ReferenceUse, ...] = ()
    hires: Hires | None = None
    upscale: Upscale | None = None
    sizes: SizeConditioning | None = None
    """SDXL only; None is the size asked for, uncropped."""
    refiner: Refiner | None = None
    preview_every: int = 0
    """Send a preview every so many steps; 0 for none."""
    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    """Unix time in seconds after which the result is worthless; earlier deadlines go first among equals."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that must be loaded to run it."""
        return (self.model,) if self.refiner is None else (self.model, self.refiner.model)

    @property
    def finished_size(self) -> tuple[int, int]:
        """Width and height of the images that come back."""
        if self.upscale is not None:
            return self.upscale.width, self.upscale.height
        if self.init is not None and self.init.inpaints and self.init.masking.only_masked:
            return self.init.canvas
        return (self.width, self.height) if self.hires is None else (self.hires.width, self.hires.height)

    @property
    def adapters(self) -> tuple[AdapterCard, ...]:
        """Everything beside models that must be on the device to run it, each once."""
        cards: list[AdapterCard] = [*(use.card for use in self.loras), *(use.card for use in self.controls)]
        cards += [use.card for use in self.references]
        if self.hires is not None and self.hires.card is not None:
            cards.append(self.hires.card)
        if self.upscale is not None and self.upscale.card is not None:
            cards.append(self.upscale.card)
        return tuple({(type(card), card.name): card for card in cards}.values())

    @property
    def styled_prompt(self) -> str:
        """The prompt, with the words of its style around it."""
        return self.prompt if self.style is None else self.style.prompt.replace(PLACE, self.prompt, 1)

    @property
    def styled_negative(self) -> str:
        """The negative prompt, followed by that of the style."""
        added = "" if self.style is None else self.style.negative
        return ", ".join(part for part in (self.negative_prompt, added) if part)
