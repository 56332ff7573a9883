"""The picture to start from, its mask, and what is done with them: pure."""

import math

from pipelines.contract.catalog import ModelCard
from pipelines.contract.enlarging import Enlarger
from pipelines.contract.errors import InvalidRequest, TooLarge
from pipelines.contract.inpainting import MAX_BLUR, MAX_CANVAS, MAX_LENGTH, Margins, MaskedContent, Masking
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init
from server.api.checks import number, share, whole
from server.api.options import OutpaintOption, Shaping

_OF_MASKS = ("mask_blur", "mask_grow", "mask_invert", "mask_soft", "mask_content", "only_masked", "mask_padding", "keep_unmasked")
_OF_PICTURES = ("resize", "outpaint", *_OF_MASKS)
_SEAM = 64
_LEAST_SEAM = 4


def init(options: Shaping, card: ModelCard, picture: Picture | None, mask: Picture | None) -> Init | None:
    """What to start from; None if nothing but noise."""
    if picture is None:
        if mask is not None:
            _refuse("mask", "goes with a picture to start from")
        for param in _OF_PICTURES:
            # False and "off" are what programs send that send every option.
            if getattr(options, param) not in (None, False):
                _refuse(param, "goes with a picture to start from")
        return None
    if mask is not None and (mask.width, mask.height) != (picture.width, picture.height):
        msg = f"'mask' is {mask.width}x{mask.height}, 'image' {picture.width}x{picture.height}; they must be alike."
        raise InvalidRequest(msg, param="mask")
    outpaint = None if options.outpaint is None else _margins(options.outpaint)
    partly = mask is not None or outpaint is not None
    if not partly:
        for param in _OF_MASKS:
            if getattr(options, param) not in (None, False):
                _refuse(param, "goes with a mask")
    found = Init(
        picture=picture,
        strength=_strength(options, card, partly=partly),
        resize=options.resize or Resize.CROP,
        mask=mask,
        masking=_masking(options, picture, mask) if partly else Masking(),
        outpaint=outpaint,
        keep_unmasked=partly if options.keep_unmasked is None else options.keep_unmasked,
    )
    width, height = found.canvas
    if outpaint is not None and width * height > MAX_CANVAS:
        msg = f"With its margins the picture has {width}x{height} pixels; the limit is {MAX_CANVAS}."
        raise TooLarge(msg, param="outpaint")
    return found


def _strength(options: Shaping, card: ModelCard, *, partly: bool) -> float:
    if options.strength != 0:
        # With a mask the part inside it is to be new; without one the picture is what to start from.
        return share(options.strength, "strength", 1.0 if partly else card.defaults.strength)
    if partly:
        _refuse("strength", "cannot be 0 with a mask or margins, which are to be painted")
    if options.upscale is None and options.hires is None:
        _refuse("strength", "can be 0 only where the picture is made larger ('upscale' or 'hires'): nothing else would happen")
    if options.hires is not None and options.hires.enlarger in (None, Enlarger.LATENT) and options.hires.upscaler is None:
        _refuse("hires.enlarger", "must be 'lanczos' or 'model' with strength 0: there are no latents to enlarge")
    return 0.0


def seam(picture: Picture) -> int:
    """How wide an edge must be that does not show: 8 pixels at 512 x 512, one latent of the model."""
    return max(_LEAST_SEAM, round(math.sqrt(picture.width * picture.height) / _SEAM))


def _masking(options: Shaping, picture: Picture, mask: Picture | None) -> Masking:
    if options.mask_invert and mask is None:
        _refuse("mask_invert", "goes with a mask")
    if options.mask_padding is not None and not options.only_masked:
        _refuse("mask_padding", "goes with 'only_masked'")
    return Masking(
        invert=bool(options.mask_invert),
        grow=whole(options.mask_grow, "mask_grow", 0, -MAX_LENGTH, MAX_LENGTH),
        # Whoever draws a mask says where its edge is; where a picture meets its margins shows, unless it is soft.
        blur=number(options.mask_blur, "mask_blur", 0.0 if options.outpaint is None else seam(picture), 0.0, MAX_BLUR),
        soft=bool(options.mask_soft),
        content=options.mask_content or MaskedContent.ORIGINAL,
        only_masked=bool(options.only_masked),
        padding=whole(options.mask_padding, "mask_padding", Masking().padding, 0, MAX_LENGTH),
    )


def _margins(asked: OutpaintOption) -> Margins:
    for side in ("left", "top", "right", "bottom"):
        whole(getattr(asked, side), f"outpaint.{side}", 0, 0, MAX_LENGTH)
    found = Margins(asked.left, asked.top, asked.right, asked.bottom)
    if found == Margins():
        msg = "'outpaint' must name at least one side, such as {\"right\": 64}."
        raise InvalidRequest(msg, param="outpaint")
    return found


def _refuse(param: str, why: str) -> None:
    msg = f"{param!r} {why}, and there is none."
    raise InvalidRequest(msg, param=param)
