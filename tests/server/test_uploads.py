import io

import pytest
from PIL import Image

from pipelines.contract.errors import BadPicture, TooLarge
from pipelines.contract.inpainting import Margins, Masking
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from server.api.uploads import Uploads
from server.telemetry.metrics import Metrics


def file(image, form="PNG", **options):
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


@pytest.fixture
def uploads():
    return Uploads(100_000, Metrics())


def pixel(picture, x=0, y=0):
    start = (y * picture.width + x) * picture.channels
    return tuple(picture.data[start : start + picture.channels])


@pytest.mark.parametrize(
    ("mode", "colour", "form", "expected"),
    [
        ("RGB", (10, 20, 30), "PNG", (10, 20, 30)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("P", 0, "PNG", (0, 0, 0)),
        ("I;16", 0x8080, "PNG", (128, 128, 128)),
        ("RGBA", (10, 20, 30, 255), "PNG", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "PNG", (255, 255, 255)),
        ("LA", (0, 0), "PNG", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), "JPEG", (255, 255, 255)),
        ("RGB", (255, 255, 255), "WEBP", (255, 255, 255)),
        ("P", 0, "GIF", (0, 0, 0)),
    ],
)
async def test_any_mode_becomes_rgb(uploads, mode, colour, form, expected):
    picture = await uploads.picture(file(Image.new(mode, (20, 10), colour), form))
    assert (picture.width, picture.height, picture.mode) == (20, 10, "RGB")
    assert pixel(picture) == expected


async def test_orientation_is_applied(uploads):
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise
    picture = await uploads.picture(file(image, exif=exif))
    assert (picture.width, picture.height) == (10, 20)
    assert pixel(picture, 0, 0) == (0, 0, 255)
    assert pixel(picture, 0, 19) == (255, 0, 0)


async def test_an_animation_gives_its_first_frame(uploads):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(await uploads.picture(data)) == (255, 0, 0)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", file(Image.effect_noise((99, 99), 9))[:-900], b"BM" + b"\0" * 60]
)
async def test_what_is_no_image_is_refused_by_name(uploads, data):
    with pytest.raises(BadPicture) as caught:
        await uploads.picture(data, "image")
    assert caught.value.param == "image"


async def test_too_many_pixels_are_refused_before_decoding(uploads):
    with pytest.raises(TooLarge, match="401x250 = 100250 pixels; the limit is 100000"):
        await uploads.picture(file(Image.new("L", (401, 250))))


async def test_mask_is_white_where_theirs_is_transparent(uploads):
    image = Image.new("RGBA", (4, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (9, 9, 9, 100), (9, 9, 9, 200)])
    assert await uploads.mask(file(image)) == Picture(4, 1, "L", bytes([255, 0, 155, 55]))


async def test_a_palette_mask_with_a_transparent_colour_is_a_mask(uploads):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putpixel((1, 0), 1)
    mask = await uploads.mask(file(image, transparency=1))
    assert mask.data == bytes([0, 255])


async def test_a_mask_without_alpha_is_refused_with_advice(uploads):
    with pytest.raises(BadPicture, match="no alpha channel"):
        await uploads.mask(file(Image.new("L", (4, 4))))


@pytest.mark.parametrize(
    ("size", "target", "left"),
    [
        ((300, 200), (64, 64), (300, 200)),
        ((400, 240), (64, 56), (200, 120)),
        ((512, 4000), (64, 64), (128, 1000)),
        ((64, 64), (64, 64), (64, 64)),
    ],
)
async def test_pixels_that_cannot_be_seen_are_left_out(size, target, left):
    pictures = [Picture(*size, mode, bytes(size[0] * size[1] * len(mode))) for mode in ("RGB", "L")]
    trimmed = await Uploads(10_000_000, Metrics()).trimmed(Init(pictures[0], mask=pictures[1]), *target)
    assert (trimmed.picture.width, trimmed.picture.height) == (trimmed.mask.width, trimmed.mask.height) == left


async def test_a_picture_that_keeps_its_own_size_keeps_its_pixels():
    picture, mask = (Picture(512, 512, mode, bytes(512 * 512 * len(mode))) for mode in ("RGB", "L"))
    uploads = Uploads(10_000_000, Metrics())
    part = Init(picture, mask=mask, masking=Masking(only_masked=True))
    grown = Init(picture, outpaint=Margins(left=64))
    assert await uploads.trimmed(part, 64, 64) is part
    assert await uploads.trimmed(grown, 64, 64) is grown
