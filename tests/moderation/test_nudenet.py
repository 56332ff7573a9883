"""The classifier's process: one that answers as it should, others that do not, and the real one where it is installed."""

import asyncio
import sys

import pytest

from pipelines.contract.picture import Picture
from server.domain.clock import SetClock
from server.domain.failures import ModerationUnavailable
from server.gateway.moderation.nudenet import NudeNet, scores
from server.telemetry.logs import silent

PICTURE = Picture(8, 8, "RGB", bytes(192))

DOUBLE = """
import io, json, os, sys
from PIL import Image
def say(answer):
    print(json.dumps(answer), flush=True)
say({"ready": True})
while header := sys.stdin.buffer.read(4):
    image = Image.open(io.BytesIO(sys.stdin.buffer.read(int.from_bytes(header, "big"))))
    value = image.getpixel((0, 0))[0]
    if value == 13:
        os._exit(3)
    if value == 14:
        say({"error": "a bad picture"})
    else:
        say({"found": [["BUTTOCKS_EXPOSED", value / 255], ["FACE_MALE", 0.9], ["SIZE", image.width]]})
"""


def picture(value, side=8):
    return Picture(side, side, "RGB", bytes([value]) * (3 * side * side))


@pytest.fixture
async def classifier():
    made = []

    def make(source=DOUBLE):
        clock = SetClock()
        made.append(NudeNet(clock, silent(), (sys.executable, "-c", source), library="json"))
        return made[-1], clock

    yield make
    for each in made:
        await each.close()


def test_only_exposed_parts_count():
    found = (("FACE_FEMALE", 0.9), ("FEMALE_BREAST_COVERED", 0.8), ("MALE_BREAST_EXPOSED", 0.8))
    assert scores(found) == {}
    assert scores((*found, ("FEMALE_BREAST_EXPOSED", 0.6), ("ANUS_EXPOSED", 0.3))) == {"sexual": 0.6}


async def test_pictures_are_answered_each_with_its_own(classifier):
    found, _ = classifier()
    answers = await asyncio.gather(*(found.classify(picture(value * 5)) for value in range(20, 40)))
    assert [round(each["sexual"] * 255) for each in answers] == [value * 5 for value in range(20, 40)]


async def test_who_leaves_does_not_get_others_the_wrong_answer(classifier):
    found, _ = classifier()
    await found.classify(picture(1))
    for _ in range(5):
        tasks = [asyncio.create_task(found.classify(picture(value))) for value in (50, 100, 150)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [round(each["sexual"] * 255) for each in answers[1:]] == [100, 150]


async def test_a_picture_it_cannot_read_is_no_fault_of_its_process(classifier):
    found, _ = classifier()
    with pytest.raises(ModerationUnavailable, match="a bad picture"):
        await found.classify(picture(14))
    assert (await found.classify(picture(255)))["sexual"] == 1.0


async def test_a_death_rests_it_and_then_it_starts_again(classifier):
    found, clock = classifier()
    with pytest.raises(ModerationUnavailable, match="it has died"):
        await found.classify(picture(13))
    with pytest.raises(ModerationUnavailable):
        await found.classify(picture(255))
    assert found.problem is not None
    clock.advance(31)
    assert found.problem is None
    assert (await found.classify(picture(255)))["sexual"] == 1.0


@pytest.mark.parametrize(
    "source",
    ["raise SystemExit(1)", "print('nonsense')", 'print(\'{"error": "no model"}\')', "print('x' * 2_000_000)"],
)
async def test_one_that_does_not_start_is_a_problem_told(classifier, source):
    found, _ = classifier(source)
    with pytest.raises(ModerationUnavailable):
        await found.classify(PICTURE)
    assert "image classifier failed" in found.problem


async def test_where_it_is_not_installed_nothing_is_started():
    found = NudeNet(SetClock(), silent(), ("/does/not/exist",), library="no_such_library")
    with pytest.raises(ModerationUnavailable, match=r"aquatint\[moderation\]"):
        await found.classify(PICTURE)


async def test_the_real_one_sees_nothing_in_plain_colour():
    pytest.importorskip("nudenet")
    found = NudeNet(SetClock(), silent())
    try:
        assert found.problem is None
        assert await found.classify(picture(200, side=700)) == {}
        assert await found.classify(Picture(4, 4, "RGBA", bytes(64))) == {}
    finally:
        await found.close()
