"""Inpainting and outpainting: what becomes of picture, mask and margins before the first step, and after the last."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling
from PIL import Image

from pipelines.adapters import region
from pipelines.adapters.canvas import framed, grown, spread
from pipelines.adapters.masks import cut, edited, opacity
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.inpainting import MaskedContent
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from pipelines.families.pictures import as_mode, as_pixels, fit, to_image, to_picture


@dataclass(frozen=True, slots=True)
class Repainting:
    """A picture and its mask at the size they are worked on, on the CPU in float32."""

    pixels: torch.Tensor
    """[1, 3, H, W] in -1..1: margins have the colours around, and so has what is masked if that was asked for."""
    mask: torch.Tensor
    """[1, 1, H, W] in 0 (kept) .. 1 (repainted); a soft one says for which share of the steps."""
    margins: torch.Tensor | None
    """[1, 1, H, W], 1 in the margins: every latent that they touch is repainted."""
    soft: bool
    content: MaskedContent

    @property
    def shown(self) -> torch.Tensor:
        """The picture as a nine-channel network sees it, [1, 3, H, W]: grey wherever anything is repainted."""
        return self.pixels * (self.mask <= 0) if self.soft else self.pixels * (self.mask < 1)

    def shrunk(self, height: int, width: int) -> torch.Tensor:
        """The mask for latents, [1, 1, height, width]: as diffusers takes it, the pixel in each latent's corner.

        A soft one is averaged instead. A mask that slips through between the corners is taken by the latents it touches.
        """
        size = (height, width)
        small = F.interpolate(self.mask, size=size, mode="area") if self.soft else F.interpolate(self.mask, size=size)
        if self.margins is not None:
            small = torch.maximum(small, F.adaptive_max_pool2d(self.margins, size))
        return small if bool(small.any()) else F.adaptive_max_pool2d(self.mask, size)

    def begun(self, latents: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean ``latents`` of the picture with what was asked for in place of what is masked, by its share of the steps."""
        if self.content is MaskedContent.LATENT_NOISE:
            return (1 - mask) * latents + mask * noise
        return (1 - mask) * latents if self.content is MaskedContent.LATENT_NOTHING else latents


def prepared(init: Init, width: int, height: int) -> Repainting:
    """``init``, which must have a mask or margins, for an image worked on at ``width`` x ``height``.

    Raises `InvalidRequest` for a mask of which nothing is left to repaint.
    """
    masking = init.masking
    laid = _only_masked(init, width, height)[0] if masking.only_masked else _whole(init, width, height, 1.0)
    grey = laid.mask if masking.soft else cut(laid.mask)
    _check(grey)
    mask = _tensor(grey)
    margins = None if laid.margins is None else _tensor(laid.margins)
    pixels = as_pixels(laid.picture)
    if masking.content is MaskedContent.FILL:
        pixels = spread(pixels, 1 - mask)
    elif margins is not None:
        pixels = spread(pixels, 1 - margins)
    return Repainting(pixels, mask, margins, masking.soft, masking.content)


def puts_back(init: Init) -> bool:
    """Whether the finished picture takes pixels of the input: where it is asked for, and where the mask's options need it."""
    masking = init.masking
    return init.inpaints and (init.keep_unmasked or masking.only_masked or (masking.blur > 0 and not masking.soft))


def put_back(init: Init, made: Picture, width: int, height: int) -> Picture:
    """``made`` with the input's own pixels wherever the mask, as worked on at ``width`` x ``height``, is black.

    With ONLY_MASKED it is put back into the picture (grown by the margins), which keeps its own size. ``made`` may have been
    enlarged since: then so is everything else.
    """
    soft, image = init.masking.soft, to_image(made)
    if init.masking.only_masked:
        _, whole, box = _only_masked(init, width, height)
        image = region.fit_back(image, box)
    else:
        whole = _whole(init, made.width, made.height, made.width / width)
        box = (0, 0, made.width, made.height)
    mask = whole.mask.crop(box)
    if not soft and init.masking.blur == 0:
        mask = cut(mask)
    whole.picture.paste(image, box[:2], opacity(mask, soft=soft))
    return to_picture(whole.picture)


@dataclass(frozen=True, slots=True)
class _Laid:
    """A picture of its own, its mask with all that was done to it, and its margins, all of one size."""

    picture: Image.Image
    mask: Image.Image
    margins: Image.Image | None


def _laid(init: Init) -> _Laid:
    """Everything at the picture's own size, grown by the margins; nothing is done to the mask."""
    picture = as_mode(to_image(init.picture), "RGB")
    mask = Image.new("L", picture.size, 0) if init.mask is None else as_mode(to_image(init.mask), "L")
    if mask.size != picture.size:
        mask = mask.resize(picture.size, Image.Resampling.LANCZOS)
    if init.outpaint is None:
        return _Laid(picture, mask, None)
    margins = framed(Image.new("L", picture.size, 0), init.outpaint, 255)
    return _Laid(grown(picture, init.outpaint), framed(mask, init.outpaint, 0), margins)


def _whole(init: Init, width: int, height: int, scale: float) -> _Laid:
    """Everything at ``width`` x ``height``; the mask's lengths are multiplied by ``scale``."""
    laid = _laid(init)
    margins = None if laid.margins is None else cut(fit(laid.margins, width, height, init.resize))
    mask = edited(fit(laid.mask, width, height, init.resize), init.masking, margins, scale=scale)
    return _Laid(fit(laid.picture, width, height, init.resize), mask, margins)


def _only_masked(init: Init, width: int, height: int) -> tuple[_Laid, _Laid, region.Box]:
    """The part around the mask at ``width`` x ``height``, the whole at its own size, and where in it the part is."""
    laid = _laid(init)
    whole = _Laid(laid.picture, edited(laid.mask, init.masking, laid.margins), laid.margins)
    _check(whole.mask)
    box = region.around(whole.mask, width, height, init.masking.padding)
    margins = None if whole.margins is None else cut(region.cut_out(whole.margins, box, width, height))
    part = _Laid(region.cut_out(whole.picture, box, width, height), region.cut_out(whole.mask, box, width, height), margins)
    return part, whole, box


def _check(mask: Image.Image) -> None:
    if mask.getextrema()[1] == 0:
        msg = (
            "There is nothing to repaint: the mask keeps everything, or nothing is left of it at this size, grown and blurred so."
        )
        raise InvalidRequest(msg, param="mask")


def _tensor(mask: Image.Image) -> torch.Tensor:
    """[1, 1, H, W] in 0..1."""
    return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255.0)[None, None]
