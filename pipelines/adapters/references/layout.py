"""What an IP-Adapter's file holds, told from its tensors' names and shapes alone.

Two parts lie in it: ``image_proj.*`` makes tokens of what an image encoder says, and ``ip_adapter.N.to_k_ip`` and ``.to_v_ip``
make keys and values of the tokens, one pair for each cross-attention of the network, N = 1, 3, 5 ... in the order of diffusers'
``attn_processors`` (down, up, middle).
"""

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from pipelines.contract.errors import ModelLoadFailed, Unsupported

IMAGE = "image_proj."
LAYERS = "ip_adapter."

_KEY = re.compile(r"ip_adapter\.(\d+)\.to_k_ip\.weight")

_NETWORKS = {
    (16, 768): "Stable Diffusion 1",
    (16, 1024): "Stable Diffusion 2",
    (44, 1280): "the SDXL refiner",
    (70, 2048): "SDXL",
}
"""By number of cross-attentions and width of tokens."""

Shapes = Mapping[str, tuple[int, ...]]


class Variant(StrEnum):
    """What becomes of a picture."""

    PLAIN = "plain"
    """A few tokens of its embedding."""
    PLUS = "plus"
    """Tokens gathered from the image encoder's last states by a resampler."""
    FULL = "full"
    """A token of each of those states."""


class Layout(msgspec.Struct, frozen=True):
    """What one IP-Adapter is made for."""

    variant: Variant
    image_width: int
    """Of what the image encoder gives: its embedding (PLAIN) or its states."""
    width: int
    """Of tokens: as wide as the network's prompt tokens."""
    layers: tuple[int, ...]
    """Width of keys and values at each cross-attention, in order."""


def layout_of(name: str, shapes: Shapes) -> Layout:
    """The layout of the IP-Adapter called ``name`` from the shapes of its file's tensors.

    Raises `ModelLoadFailed` for what is none, `Unsupported` for one that recognises faces instead of looking at pictures.
    """
    image = {key.removeprefix(IMAGE): shape for key, shape in shapes.items() if key.startswith(IMAGE)}
    keys = sorted(int(found[1]) for key in shapes if (found := _KEY.fullmatch(key)))
    if not image or not keys:
        msg = f"The file of IP-Adapter {name!r} is none: it has no tensors named {IMAGE}* and {LAYERS}*.to_k_ip.weight."
        raise ModelLoadFailed(msg, param="references")
    if _knows_faces(image):
        msg = (
            f"The IP-Adapter {name!r} is a FaceID one: it wants a face recogniser's embedding instead of a picture, and there is "
            "no such recogniser here. Use a plus-face or full-face one, which look at the picture."
        )
        raise Unsupported(msg, param="references")
    try:
        variant, image_width, width = _image(image)
        layers = tuple(_layer(shapes, number, width) for number in keys)
    except (KeyError, IndexError, ValueError) as error:
        msg = f"The file of IP-Adapter {name!r} is incomplete or of a layout that is not known here: {error}."
        raise ModelLoadFailed(msg, param="references") from error
    if keys != [2 * index + 1 for index in range(len(keys))]:
        msg = f"The file of IP-Adapter {name!r} is incomplete: it has keys for the cross-attentions {keys}, not for 1, 3, 5 ..."
        raise ModelLoadFailed(msg, param="references")
    return Layout(variant, image_width, width, layers)


def called(attentions: int, width: int) -> str:
    """In words, the networks with so many cross-attentions to prompt tokens of so many channels."""
    numbers = f"{attentions} cross-attentions to tokens of {width}"
    known = _NETWORKS.get((attentions, width))
    return numbers if known is None else f"{numbers} ({known})"


def _knows_faces(image: Shapes) -> bool:
    resampled = any(key.startswith("perceiver_resampler.") for key in image)
    return resampled or ("norm.weight" in image and "proj.0.weight" in image)


def _image(image: Shapes) -> tuple[Variant, int, int]:
    if "proj.weight" in image:
        return Variant.PLAIN, image["proj.weight"][1], image["norm.weight"][0]
    if "proj.3.weight" in image:
        return Variant.FULL, image["proj.0.weight"][1], image["proj.3.weight"][0]
    return Variant.PLUS, image["proj_in.weight"][1], image["proj_out.weight"][0]


def _layer(shapes: Shapes, number: int, width: int) -> int:
    key, value = (shapes[f"{LAYERS}{number}.{half}.weight"] for half in ("to_k_ip", "to_v_ip"))
    if key != value or key != (key[0], width):
        msg = f"cross-attention {number} has keys {list(key)} and values {list(value)} of tokens of {width}"
        raise ValueError(msg)
    return key[0]
