"""What shapes a picture, in words that all of our own dialects and extensions share. None means: as if it were not there.

Only types are checked here; `server.api.orders` and its neighbours check the rest, where model and pictures are known.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from pipelines.contract.control import Balance
from pipelines.contract.enlarging import Enlarger
from pipelines.contract.inpainting import MaskedContent
from pipelines.contract.picture import Resize
from server.domain.asset import Told
from server.domain.caching import CacheUse

PictureText = Annotated[
    str,
    Meta(
        description="A picture: a base64 data: URL, the id of an asset (`asset_...`), or in a form the name of a file part.",
        examples=["asset_0123456789abcdef0123456789abcdef"],
    ),
]


class LoraOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One LoRA of models.yaml; also written ``name:0.8``."""

    name: Annotated[str, Meta(description="Its key under `loras:` in models.yaml, in any case.")]
    weight: Annotated[float | None, Meta(description="-20 to 20; absent: the card's. 0 leaves the LoRA out.")] = None
    text_weight: Annotated[float | None, Meta(description="On the text encoders; absent: `weight`.")] = None


class ControlOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One control network, and the picture it follows."""

    name: Annotated[str, Meta(description="Its key under `controlnets:` in models.yaml, in any case.")]
    image: PictureText | None = None
    preprocessor: Annotated[
        str | None,
        Meta(description="What makes the control image of the picture; absent: the card's. `none`: the picture is one."),
    ] = None
    preprocessor_options: Annotated[
        dict[str, int | float] | None,
        Meta(description="Its parameters, as GET /api/preprocessors lists them; absent `resolution`: what fits the image."),
    ] = None
    weight: Annotated[float | None, Meta(description="0 to 2; absent: 1.")] = None
    start: Annotated[float | None, Meta(description="Fraction of the steps from which it speaks; absent: 0.")] = None
    end: Annotated[float | None, Meta(description="Fraction of the steps from which it is silent again; absent: 1.")] = None
    balance: Annotated[Balance | None, Meta(description="Who gives way where prompt and control disagree.")] = None
    resize: Annotated[Resize | None, Meta(description="How the picture meets the size; absent: crop.")] = None
    mode: Annotated[str | None, Meta(description="For a union of control networks: which of its modes the picture is.")] = None


class ReferenceOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures as a prompt, through one IP-Adapter."""

    name: Annotated[str, Meta(description="Its key under `ip_adapters:` in models.yaml, in any case.")]
    image: PictureText | None = None
    images: Annotated[list[PictureText] | None, Meta(description="Several pictures, attended to together.")] = None
    weight: Annotated[float | None, Meta(description="0 to 2; absent: 0.6.")] = None
    start: Annotated[float | None, Meta(description="Fraction of the steps from which it speaks; absent: 0.")] = None
    end: Annotated[float | None, Meta(description="Fraction of the steps from which it is silent again; absent: 1.")] = None


class OutpaintOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the picture is to grow on each side, in pixels of the picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


class HiresOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second pass at a larger size: ``scale``, or ``width`` and ``height``."""

    scale: Annotated[float | None, Meta(description="Above 1, to 4.")] = None
    width: int | None = None
    height: int | None = None
    enlarger: Annotated[Enlarger | None, Meta(description="Absent: model if there is an upscaler, else latent.")] = None
    upscaler: Annotated[str | None, Meta(description="A key under `upscalers:` in models.yaml.")] = None
    strength: Annotated[float | None, Meta(description="Above 0, to 1; absent: 0.55.")] = None
    steps: Annotated[int | None, Meta(description="The second pass's; absent: the request's.")] = None


class TilesOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Redraw the enlarged picture tile by tile."""

    size: Annotated[int | None, Meta(description="Pixels along a side; absent: 512, or as many as the model makes.")] = None
    overlap: Annotated[int | None, Meta(description="Pixels; absent: 64.")] = None
    strength: Annotated[float | None, Meta(description="Above 0, to 1; absent: 0.3.")] = None


class UpscaleOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Enlarge the finished picture: ``scale``, or ``width`` and ``height``."""

    scale: Annotated[float | None, Meta(description="Above 1, to 8.")] = None
    width: int | None = None
    height: int | None = None
    enlarger: Annotated[Enlarger | None, Meta(description="lanczos or model; absent: model if there is an upscaler.")] = None
    upscaler: Annotated[str | None, Meta(description="A key under `upscalers:` in models.yaml.")] = None
    tiles: TilesOption | None = None


class RefinerOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second model that finishes every image."""

    model: Annotated[str, Meta(description="An id or alias of models.yaml, of the same family.")]
    switch_at: Annotated[float | None, Meta(description="Between 0 and 1; absent: 0.8.")] = None


class SizesOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What SDXL is told of an imagined original, in pixels."""

    original: Annotated[tuple[int, int] | None, Meta(description="Width and height; absent: the size asked for.")] = None
    crop: Annotated[tuple[int, int] | None, Meta(description="Left and top; absent: 0, 0.")] = None
    target: Annotated[tuple[int, int] | None, Meta(description="Width and height; absent: the size asked for.")] = None
    aesthetic_score: Annotated[float | None, Meta(description="0 to 10; absent: 6. For refiners.")] = None
    negative_aesthetic_score: Annotated[float | None, Meta(description="0 to 10; absent: 2.5. For refiners.")] = None


class SkipLayersOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Skip-layer guidance of SD 3.5."""

    layers: Annotated[list[int], Meta(description="Indices of transformer blocks.")]
    scale: Annotated[float | None, Meta(description="0 to 20; absent: 2.8.")] = None
    start: Annotated[float | None, Meta(description="Fraction of the steps; absent: 0.01.")] = None
    stop: Annotated[float | None, Meta(description="Fraction of the steps; absent: 0.2.")] = None


class OutputOption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How results are encoded."""

    format: Annotated[str | None, Meta(description="png, jpeg, webp or avif; absent: png.")] = None
    quality: Annotated[int | None, Meta(description="0 to 100, for jpeg, webp and avif.")] = None
    size: Annotated[
        str | None,
        Meta(description="WIDTHxHEIGHT to scale the finished picture down to, in its own shape.", examples=["256x256"]),
    ] = None
    metadata: Annotated[
        Told | None,
        Meta(description="What the file tells of its making: infotext, the request as JSON, all or none; absent: the server's."),
    ] = None


class Shaping(msgspec.Struct, frozen=True, kw_only=True):
    """Options that mean the same in every dialect that has them."""

    negative_prompt: Annotated[str | None, Meta(description="What to steer away from.")] = None
    seed: Annotated[int | None, Meta(description="0 to 2^64 - 1; further images get the next ones. Absent: drawn.")] = None
    steps: Annotated[int | None, Meta(description="Denoising steps.")] = None
    guidance_rescale: Annotated[float | None, Meta(description="0 to 1 (arXiv:2305.08891).")] = None
    sampler: Annotated[str | None, Meta(description="An id, or AUTOMATIC1111's spelling.", examples=["dpmpp_2m"])] = None
    scheduler: Annotated[str | None, Meta(description="The noise schedule.", examples=["karras"])] = None
    strength: Annotated[float | None, Meta(description="The share of the steps that is run from a picture, above 0 to 1.")] = None
    clip_skip: Annotated[int | None, Meta(description="Leave out so many last layers of the text encoder.")] = None
    style_preset: Annotated[str | None, Meta(description="A look by its name.", examples=["line-art"])] = None
    loras: Annotated[
        list[LoraOption | str] | str | None,
        Meta(description="At most 8: `{name, weight, text_weight}` or `name:0.8`.", examples=[["paper-cut:0.8"]]),
    ] = None
    controls: Annotated[list[ControlOption] | None, Meta(description="At most 4.")] = None
    references: Annotated[list[ReferenceOption] | None, Meta(description="At most 4, with 8 pictures each.")] = None
    resize: Annotated[Resize | None, Meta(description="How the picture to start from meets the size; absent: crop.")] = None
    mask_blur: Annotated[
        float | None, Meta(description="Soften the mask's edge: 0 to 256 pixels; absent: 0, for `outpaint` what hides the seam.")
    ] = None
    mask_grow: Annotated[int | None, Meta(description="Widen (or shrink) what is repainted: -4096 to 4096 pixels.")] = None
    mask_invert: Annotated[bool | None, Meta(description="Repaint what the mask keeps, and keep what it repaints.")] = None
    mask_soft: Annotated[bool | None, Meta(description="Grey is partial strength, pixel by pixel.")] = None
    mask_content: Annotated[MaskedContent | None, Meta(description="What stands inside the mask at first.")] = None
    only_masked: Annotated[bool | None, Meta(description="Work on the part around the mask at the size asked for.")] = None
    mask_padding: Annotated[int | None, Meta(description="With only_masked: context around the mask, 0 to 4096 pixels.")] = None
    keep_unmasked: Annotated[bool | None, Meta(description="Put the picture's own pixels back outside; absent: true.")] = None
    outpaint: OutpaintOption | None = None
    hires: HiresOption | None = None
    upscale: UpscaleOption | None = None
    refiner: Annotated[RefinerOption | str | None, Meta(description="A model's name also does; `none`: without one.")] = None
    sizes: SizesOption | None = None
    skip_layers: Annotated[SkipLayersOption | str | None, Meta(description="`none` switches the card's off.")] = None
    output: OutputOption | None = None
    cache: Annotated[
        CacheUse | None,
        Meta(
            description="exact: an earlier picture of the very same request will do, if it names its seeds; any: one with "
            "whatever seeds; off: a new one. Absent: exact."
        ),
    ] = None
