"""The part of a picture that is worked on when only what is masked is painted, and its way back."""

from PIL import Image

from pipelines.contract.picture import Resize
from pipelines.families.pictures import fit

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first ones outside."""


def around(mask: Image.Image, width: int, height: int, padding: int) -> Box:
    """The box around everything in ``mask`` that is not black, which must be something, with ``padding`` pixels on every side.

    It has the shape of ``width`` x ``height`` as far as the picture reaches. Equal to diffusers' ``get_crop_region``.
    """
    found = mask.getbbox()
    if found is None:
        msg = "the mask is empty"
        raise ValueError(msg)
    left, top = max(found[0] - padding, 0), max(found[1] - padding, 0)
    right, bottom = min(found[2] + padding, mask.width), min(found[3] + padding, mask.height)
    if (right - left) / (bottom - top) > width / height:
        top, bottom = _longer(top, bottom, int((right - left) / (width / height)), mask.height)
    else:
        left, right = _longer(left, right, int((bottom - top) * (width / height)), mask.width)
    return left, top, right, bottom


def _longer(first: int, last: int, length: int, limit: int) -> tuple[int, int]:
    """An interval of ``length`` around ``first`` .. ``last``, moved into 0 .. ``limit`` and cut there."""
    more = max(0, length - (last - first))
    first, last = first - more // 2, last + more - more // 2
    if last > limit:
        first, last = first - (last - limit), limit
    if first < 0:
        first, last = 0, last - first
    return first, min(last, limit)


def cut_out(image: Image.Image, box: Box, width: int, height: int) -> Image.Image:
    """What ``box`` shows, at ``width`` x ``height``.

    Where the box is not quite of that shape because a pixel cannot be cut, it is stretched; where the picture was too small for
    it, the rest is filled with its stretched edges. diffusers does the latter in both cases, which shows up as a line of
    borrowed pixels along two sides once a small box is enlarged.
    """
    return fit(image.crop(box), width, height, Resize.STRETCH if _alike(box, width, height) else Resize.FILL)


def fit_back(image: Image.Image, box: Box) -> Image.Image:
    """What `cut_out` took from ``box``, worked on since, at the size of the box again."""
    how = Resize.STRETCH if _alike(box, *image.size) else Resize.CROP
    return fit(image, box[2] - box[0], box[3] - box[1], how)


def _alike(box: Box, width: int, height: int) -> bool:
    """Whether a pixel more or less of the box would make it ``width`` x ``height`` in shape."""
    across, down = box[2] - box[0], box[3] - box[1]
    return abs(across * height - down * width) < max(width, height)
