"""Control images in front of a provider: what is made, what is kept, and what is said when it cannot be."""

import asyncio

import pytest

from pipelines.contract.adapters import ControlCard
from pipelines.contract.control import ControlUse
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest, Sampling
from server.domain.call import Call
from server.gateway.preparing import Prepared
from server.providers.fake import FunctionProvider, flat

CARD = ControlCard("edges", "dir:/x", Family.SD)


def picture(width=100, height=50, tone=0):
    return Picture(width, height, "L", bytes([tone]) * (width * height))


def request(*controls):
    return ImageRequest("r", "m", "p", 256, 128, (1,), Sampling("euler", 1, 1.0), controls=controls)


class Preprocesses:
    """Makes a picture of one pixel; notes what it was asked."""

    def __init__(self, gate=None, error=None):
        self.asked, self.gate, self.error, self.weights = [], gate, error, ""

    def identity(self, _name):
        return self.weights

    async def preprocess(self, preprocessor, given, options, *, deadline=None):
        self.asked.append((preprocessor, given, options, deadline))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Picture(1, 1, "L", bytes([len(self.asked)]))


class Made:
    def __init__(self, preprocesses, **options):
        self.seen = []
        self.prepared = Prepared(FunctionProvider(self._generate), preprocesses, **options)

    async def _generate(self, wanted, _call):
        self.seen.append(wanted)
        return flat(wanted)

    async def __call__(self, *controls, **call):
        await self.prepared.generate(request(*controls), Call("c", **call))
        return self.seen[-1].controls


async def test_a_picture_is_replaced_and_all_else_stays():
    preprocesses = Preprocesses()
    plain = ControlUse(CARD, picture(), weight=0.5)
    use = ControlUse(CARD, picture(), "Canny", 0.7, preprocessor_options={"low_threshold": 9, "resolution": 512})
    found = await Made(preprocesses)(plain, use, deadline=1.0)
    assert found[0] is plain
    assert found[1] == ControlUse(CARD, Picture(1, 1, "L", b"\x01"), None, 0.7)
    assert preprocesses.asked == [("Canny", picture(), {"low_threshold": 9, "resolution": 512}, 1.0)]


async def test_a_request_without_preprocessors_goes_through_untouched():
    made = Made(Preprocesses())
    asked = request(ControlUse(CARD, picture()))
    await made.prepared.generate(asked, Call("c"))
    assert made.seen[0] is asked
    assert made.prepared.wait_seconds() == 1.0


async def test_those_of_one_request_are_made_at_the_same_time():
    gate = asyncio.Event()
    preprocesses = Preprocesses(gate)
    task = asyncio.create_task(Made(preprocesses)(*(ControlUse(CARD, picture(tone=tone), "canny") for tone in (1, 2, 3))))
    async with asyncio.timeout(60):
        while len(preprocesses.asked) < 3:  # noqa: ASYNC110 - the double does not tell
            await asyncio.sleep(0)
    gate.set()
    assert len(await task) == 3


@pytest.mark.parametrize(
    ("size", "resize", "resolution"),
    [((100, 50), Resize.CROP, 128), ((50, 50), Resize.CROP, 256), ((50, 50), Resize.FILL, 128), ((4000, 10), Resize.FILL, 64)],
)
async def test_without_a_resolution_the_control_image_fits_the_image(size, resize, resolution):
    preprocesses = Preprocesses()
    await Made(preprocesses)(ControlUse(CARD, picture(*size), "canny", resize=resize))
    assert preprocesses.asked[0][2] == {"resolution": resolution}


async def test_equal_work_is_done_once_and_the_result_kept():
    preprocesses = Preprocesses()
    made = Made(preprocesses)
    same = ControlUse(CARD, picture(), "canny")
    first = await made(same, same)
    second = await made(ControlUse(CARD, picture(), "canny"))
    assert len(preprocesses.asked) == 1
    assert first[0].picture == first[1].picture == second[0].picture


@pytest.mark.parametrize(
    "other",
    [
        ControlUse(CARD, picture(tone=1), "canny"),
        ControlUse(CARD, picture(50, 100), "canny"),
        ControlUse(CARD, picture(), "sobel"),
        ControlUse(CARD, picture(), "canny", preprocessor_options={"low_threshold": 5}),
    ],
)
async def test_unlike_work_is_not_confused(other):
    preprocesses = Preprocesses()
    made = Made(preprocesses)
    await made(ControlUse(CARD, picture(), "canny"))
    await made(other)
    assert len(preprocesses.asked) == 2


async def test_other_weights_make_another_image():
    preprocesses = Preprocesses()
    made = Made(preprocesses)
    await made(ControlUse(CARD, picture(), "hed"))
    preprocesses.weights = "file:/other"
    await made(ControlUse(CARD, picture(), "hed"))
    assert len(preprocesses.asked) == 2


async def test_what_is_kept_is_bounded_and_the_oldest_goes():
    preprocesses = Preprocesses()
    made = Made(preprocesses, kept_bytes=2)
    for tone in (1, 2, 1, 3, 1, 2):
        await made(ControlUse(CARD, picture(tone=tone), "canny"))
    assert [given.data[0] for _, given, _, _ in preprocesses.asked] == [1, 2, 3, 2]


async def test_an_error_names_the_control_and_ends_the_others():
    error = InvalidRequest("too low", param="options.low_threshold")
    made = Made(Preprocesses(error=error))
    with pytest.raises(InvalidRequest, match="too low") as told:
        await made(ControlUse(CARD, picture()), ControlUse(CARD, picture(), "canny"))
    assert told.value.param == "controls[1].preprocessor_options.low_threshold"
    assert made.seen == []


async def test_an_unknown_name_is_the_callers_mistake():
    with pytest.raises(Unsupported) as told:
        await Made(Preprocesses())(ControlUse(CARD, picture(), "dwpose"))
    assert told.value.param == "controls[0].preprocessor"


async def test_cancelling_reaches_the_work():
    gate = asyncio.Event()
    preprocesses = Preprocesses(gate)
    task = asyncio.create_task(Made(preprocesses)(ControlUse(CARD, picture(), "canny")))
    async with asyncio.timeout(60):
        while not preprocesses.asked:  # noqa: ASYNC110 - the double does not tell
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
