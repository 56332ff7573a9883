"""The pictures of a request, from wherever they are."""

import base64
import io

import pytest
from PIL import Image

from pipelines.contract.errors import BadPicture, InvalidRequest, TooLarge, Unsupported
from server.api.errors import UnknownAsset
from server.api.options import ControlOption, ReferenceOption, Shaping
from server.api.pictures import Pictures
from server.api.uploads import Uploads
from server.domain.clock import SetClock
from server.storage.files import Retention
from server.storage.inputs import InputFolder
from server.telemetry.metrics import Metrics

MOST = 4096
"""Pixels of one picture; all of a request may have a third more."""


def png(colour="red", size=(8, 4), mode="RGB"):
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, "PNG")
    return target.getvalue()


def url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.fixture
def inputs(tmp_path):
    return InputFolder(tmp_path, Retention(100.0, 10_000), SetClock())


@pytest.fixture
def pictures(inputs):
    return Pictures(Uploads(MOST, Metrics()), inputs, MOST)


def first(picture):
    return tuple(picture.data[:3])


RED, BLUE, LIME = (255, 0, 0), (0, 0, 255), (0, 255, 0)


async def test_urls_assets_and_parts_of_a_form(pictures, inputs):
    asset = await inputs.put("me", png("blue"))
    options = Shaping(
        controls=[ControlOption("a", image=asset), ControlOption("b", image="pose")],
        references=[ReferenceOption("c", images=[url(png()), asset]), ReferenceOption("d", image="pose")],
    )
    source = pictures.source("me", {"pose": png("lime"), "spare": b"?"})
    found = await source.supplied(options, png(), None)
    assert first(found.image) == RED
    assert [first(each) for each in found.controls] == [BLUE, LIME]
    assert [[first(each) for each in several] for several in found.references] == [[RED, BLUE], [LIME]]
    assert source.unused == ["spare"]


async def test_masks_in_both_ways(pictures):
    source = pictures.source("me")
    drawn = Image.new("L", (2, 1))
    drawn.putdata([0, 255])
    cut = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    cut.putpixel((1, 0), (0, 0, 0, 0))
    opaque = Image.merge("RGBA", [*(drawn,) * 3, Image.new("L", (2, 1), 255)])
    for image in (drawn, cut, opaque):
        target = io.BytesIO()
        image.save(target, "PNG")
        found = await source.supplied(Shaping(), png(), target.getvalue(), drawn_mask=True)
        assert found.mask.data == bytes([0, 255])


def control(image):
    return Shaping(controls=[ControlOption("a", image="part"), ControlOption("b", image=image)])


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        (control(None), InvalidRequest, "controls[1].image"),
        (control(""), InvalidRequest, "controls[1].image"),
        (control("https://example.com/a.png"), Unsupported, "controls[1].image"),
        (control("file:///etc/passwd"), Unsupported, "controls[1].image"),
        (control("/etc/passwd"), BadPicture, "controls[1].image"),
        (control("data:image/png,abc"), BadPicture, "controls[1].image"),
        (control("data:image/png;base64,@@"), BadPicture, "controls[1].image"),
        (control("data:image/png;base64,aGVsbG8="), BadPicture, "controls[1].image"),
        (control("asset_" + "0" * 32), UnknownAsset, "controls[1].image"),
        (control("asset_../x"), UnknownAsset, "controls[1].image"),
        (Shaping(controls=[ControlOption("a", image="part")] * 5), TooLarge, "controls"),
        (Shaping(references=[ReferenceOption("a", image="part")] * 5), TooLarge, "references"),
        (Shaping(references=[ReferenceOption("a", images=["part"] * 9)]), TooLarge, "references[0].images"),
        (Shaping(references=[ReferenceOption("a", images=["part", ""])]), InvalidRequest, "references[0].images[1]"),
        (Shaping(references=[ReferenceOption("a", images=[])]), InvalidRequest, "references[0].image"),
        (Shaping(references=[ReferenceOption("a", image="part", images=["part"])]), InvalidRequest, "references[0].images"),
        (Shaping(references=[ReferenceOption("a", image="big")] * 2), TooLarge, "references[1].image"),
    ],
)
async def test_what_is_wrong_with_pictures(pictures, options, kind, param):
    source = pictures.source("me", {"part": png(), "big": png(size=(64, 64))})
    with pytest.raises(kind) as caught:
        await source.supplied(options, None, None)
    assert (type(caught.value), caught.value.param) == (kind, param)


async def test_an_asset_of_another_tenant_is_none(pictures, inputs):
    asset = await inputs.put("you", png())
    options = Shaping(controls=[ControlOption("a", image=asset)])
    assert (await pictures.source("you").supplied(options, None, None)).controls
    with pytest.raises(UnknownAsset):
        await pictures.source("me").supplied(options, None, None)
