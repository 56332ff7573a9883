"""What comes back from an upstream is looked at at once, and decoded only where its pixels are needed."""

import io
import struct
import zlib

import pytest
from PIL import Image

from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.domain.failures import UpstreamAmbiguous
from server.domain.generation import Encoded
from server.providers import pixels
from server.providers.received import opened, received

RED, GREEN = (200, 40, 40), (40, 200, 40)


def asked(width=64, height=48, **more):
    return ImageRequest(
        id="r", model="m", prompt="a cat", width=width, height=height, seeds=(1,), sampling=Sampling("euler", 4, 4.0), **more
    )


def file(form="PNG", size=(64, 48), colour=RED):
    target = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(target, form)
    return target.getvalue()


def hollow():
    """A PNG whose checksums are right, and whose pixels cannot be unpacked."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", b"no zlib at all") + part(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_what_is_as_it_was_asked_for_stays_in_its_file(form):
    data = file(form)
    assert await received(data, asked()) == Encoded(64, 48, "RGB", data)
    assert opened(await received(data, asked())).data == pixels.decoded(data).data


async def test_transparency_is_kept_where_it_is_wanted():
    data = file(colour=(*RED, 9))
    assert (opened(await received(data, asked())).mode, opened(await received(data, asked(), alpha=True)).mode) == ("RGB", "RGBA")


async def test_pixels_are_decoded_when_somebody_needs_them():
    """So that nobody who does not waits for it."""
    data = hollow()
    assert (await received(data, asked())).file == data
    with pytest.raises(UpstreamAmbiguous, match="no usable picture"):
        opened(await received(data, asked()))
    with pytest.raises(UpstreamAmbiguous, match="no usable picture"):
        await received(data, asked(32, 24))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_what_is_not_all_there_is_refused_at_once(form):
    data = file(form, size=(256, 192))
    for end in (len(data) - 20, len(data) // 2, 30, 0):
        with pytest.raises(UpstreamAmbiguous, match="no usable picture"):
            await received(data[:end], asked(256, 192))


async def test_scaled_and_cut_pictures_keep_the_file_they_were_made_of():
    data = file(size=(128, 128))
    frame = pixels.window((128, 128), (64, 48))
    found = await received(data, asked(), frame=frame)
    assert (found.width, found.height, found.file) == (64, 48, data)
    assert opened(found) == Picture(64, 48, "RGB", bytes(RED) * 64 * 48)


async def test_a_picture_with_parts_of_the_input_is_not_the_upstreams():
    mask = Picture(64, 48, "L", (b"\xff" * 32 + b"\0" * 32) * 48)
    init = Init(Picture(64, 48, "RGB", bytes(GREEN) * 64 * 48), mask=mask, keep_unmasked=True)
    request = asked(init=init)
    found = await received(file(), request, pixels.canvas(request, init))
    assert isinstance(found, Picture)
    assert found.data[:3] + found.data[-3:] == bytes(RED) + bytes(GREEN)
