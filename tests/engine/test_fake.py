"""The fake's pictures are what a real runner's would be, but for what is in them."""

import pytest

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins, Masking
from pipelines.contract.messages import ImageDone
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner

PICTURE = Picture(30, 20, "RGB", bytes(1800))
MASK = Picture(30, 20, "L", b"\xff" * 600)


@pytest.mark.parametrize(
    ("init", "size"),
    [
        (None, (64, 48)),
        (Init(PICTURE, mask=MASK), (64, 48)),
        (Init(PICTURE, mask=MASK, masking=Masking(only_masked=True)), (30, 20)),
        (Init(PICTURE, masking=Masking(only_masked=True), outpaint=Margins(left=4)), (34, 20)),
    ],
)
def test_images_come_back_in_the_size_that_was_asked_for(init, size):
    engine = Engine(FakeRunner())
    engine.load(ModelCard(id="m", source="fake:", family=Family.FAKE))
    events = engine.generate(ImageRequest("r", "m", "p", 64, 48, (1,), Sampling("euler", 2, 1.0), init=init))
    while engine.busy:
        events += engine.step()
    (done,) = (event for event in events if isinstance(event, ImageDone))
    assert (done.picture.width, done.picture.height) == size
