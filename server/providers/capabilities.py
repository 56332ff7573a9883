"""What an upstream cannot do of a request: pure, so that it is known before anything is sent. Options have their own names."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from pipelines.contract.enlarging import Enlarger
from pipelines.contract.inpainting import MaskedContent
from pipelines.contract.request import ImageRequest
from server.catalog.upstreams import Kind, Upstream
from server.domain.asset import Delivery, Format
from server.domain.wishes import Wishes
from server.providers.sizes import Free, Size

Sizes = Free | tuple[Size, ...]

_ALIKE: Mapping[str, str] = MappingProxyType({"guidance_scale": "guidance", "seeds": "seed"})
_ANYWHERE = frozenset(
    {"style_preset", "output", "resize", "keep_unmasked", "mask_invert", "mask_blur", "outpaint", "upscale"}
    | {"only_masked", "mask_grow", "mask_soft", "mask_content", "mask_padding", "loras", "controls", "references", "hires"}
)
"""Done by this server around any upstream, or judged by what the request has."""
_NEVER = ("loras", "controls", "references", "hires", "refiner", "sizes", "skip_layers", "clip_skip", "sampler", "scheduler")


class Abilities(msgspec.Struct, frozen=True):
    """What one model of an upstream does."""

    options: frozenset[str] = frozenset()
    """Options that it honours."""
    image: bool = False
    """It starts from a picture."""
    mask: bool = False
    """It repaints a part, and fills margins."""
    needs_image: bool = False
    upscales: bool = False
    """It makes a picture larger without drawing it anew: what a strength of 0 means."""
    transparent: bool = False
    previews: int = 0
    """At most."""
    sizes: Sizes | None = None
    """None: shapes only; any size is cut from what it makes."""
    qualities: tuple[str, ...] = ()
    most_images: int = 10
    most_prompt: int = 32_000


_SQUARE, _WIDE, _TALL = (1024, 1024), (1536, 1024), (1024, 1536)
_WORDS = ("low", "medium", "high")
_DALL_E: Mapping[str, Abilities] = MappingProxyType(
    {
        "dall-e-2": Abilities(mask=True, image=True, sizes=((256, 256), (512, 512), _SQUARE), most_prompt=1000),
        "dall-e-3": Abilities(
            sizes=(_SQUARE, (1792, 1024), (1024, 1792)), qualities=("standard", "hd"), most_images=1, most_prompt=4000
        ),
    }
)
_STABILITY_EDITS = {"sketch", "structure", "style"}
_STABILITY_UPSCALERS = {"fast", "conservative", "creative"}


def abilities(upstream: Upstream, model: str) -> Abilities:
    """Of ``model`` there."""
    found = _BY_KIND[upstream.kind](upstream, model)
    return msgspec.structs.replace(found, sizes=upstream.sizes) if upstream.sizes else found


def lacking(
    upstream: Upstream, model: str, request: ImageRequest, wishes: Wishes | None = None, delivery: Delivery | None = None
) -> tuple[str, ...]:
    """The options of ``request`` that ``model`` of ``upstream`` cannot honour, in a stable order; empty if it can do all of it.

    ``model`` is the one that would be asked: the configured one may have retired, and its successor have other abilities.
    What the caller did not name itself (a seed that was drawn, the card's sampler) is nothing to honour: ``wishes`` tells.
    """
    wishes, delivery = wishes or Wishes(), delivery or Delivery()
    can = abilities(upstream, model)
    return tuple(
        dict.fromkeys(
            (
                *unsaid(can, wishes.said),
                *_structure(request, can),
                *(_edit(request, can)),
                *(("background",) if not _background(wishes, delivery, can) else ()),
                *(("n",) if len(request.seeds) > can.most_images else ()),
                *(("prompt",) if len(request.styled_prompt) > can.most_prompt else ()),
            )
        )
    )


def unsaid(can: Abilities, said: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the options that a caller named that an upstream would have to leave unsaid."""
    return tuple(name for name in said if name in _NEVER or (name not in _ANYWHERE and _ALIKE.get(name, name) not in can.options))


def _structure(request: ImageRequest, can: Abilities) -> list[str]:
    enlarge, init = request.upscale, request.init
    drawn = enlarge is not None and (enlarge.tiles is not None or enlarge.enlarger is not Enlarger.LANCZOS)
    if init is not None and init.strength == 0:
        # There the upstream's own way of enlarging takes the place of ours.
        drawn = not can.upscales or (enlarge is not None and enlarge.tiles is not None)
    present = {
        "loras": bool(request.loras),
        "controls": bool(request.controls),
        "references": bool(request.references),
        "hires": request.hires is not None,
        "upscale": drawn,
        "image": (init is None) if can.needs_image else (init is not None and not can.image),
    }
    return [name for name, wanted in present.items() if wanted]


def _edit(request: ImageRequest, can: Abilities) -> list[str]:
    init = request.init
    if init is None or not init.inpaints:
        return []
    if not can.mask:
        return ["mask" if init.mask is not None else "outpaint"]
    masking = init.masking
    present = {
        "only_masked": masking.only_masked,
        "mask_grow": masking.grow != 0,
        "mask_soft": masking.soft,
        "mask_content": masking.content is not MaskedContent.ORIGINAL,
    }
    return [name for name, wanted in present.items() if wanted]


def _background(wishes: Wishes, delivery: Delivery, can: Abilities) -> bool:
    return wishes.background != "transparent" or (can.transparent and delivery.format is not Format.JPEG)


def _openai(_upstream: Upstream, model: str) -> Abilities:
    if model in _DALL_E:
        return _DALL_E[model]
    free = model.startswith(("gpt-image-2", "gpt-image-3"))
    words = (*_WORDS, "xhigh", "max") if model.startswith(("gpt-image-2.", "gpt-image-3")) else _WORDS
    ours = model.startswith(("gpt-image", "chatgpt-image"))
    return Abilities(
        image=True,
        mask=True,
        transparent=ours,
        previews=3 if ours else 0,
        sizes=Free() if free else (_SQUARE, _WIDE, _TALL),
        qualities=words if ours else (),
    )


def _stability(_upstream: Upstream, model: str) -> Abilities:
    usual = frozenset({"seed", "negative_prompt"})
    if model in _STABILITY_UPSCALERS:
        options = {"fast": frozenset[str](), "conservative": usual, "creative": usual}[model]
        options = options | {"strength"} if options else options
        return Abilities(options, image=True, needs_image=True, upscales=True, most_prompt=10_000)
    if model in _STABILITY_EDITS:
        return Abilities(usual | {"strength"}, image=True, needs_image=True, most_prompt=10_000)
    starts = model != "core"
    guided = {"guidance"} if model.startswith("sd3") else set[str]()
    return Abilities(
        usual | guided | ({"strength"} if starts else set()), image=starts, mask=True, upscales=starts, most_prompt=10_000
    )


def _replicate(upstream: Upstream, _model: str) -> Abilities:
    inputs = upstream.inputs or {}
    options = frozenset({"seed", "negative_prompt", "steps", "guidance", "strength"} & inputs.keys())
    image = "image" in inputs
    return Abilities(options, image=image, mask=image and "mask" in inputs)


_BY_KIND: Mapping[Kind, Callable[[Upstream, str], Abilities]] = MappingProxyType(
    {Kind.OPENAI: _openai, Kind.STABILITY: _stability, Kind.REPLICATE: _replicate}
)
