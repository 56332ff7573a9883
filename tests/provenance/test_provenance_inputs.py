"""Which files of inputs are kept beside their pixels."""

import pytest
from authorities import asked, encoded

from server.api.options import ControlOption, Shaping
from server.api.pictures import Pictures
from server.api.uploads import Uploads
from server.domain.clock import SetClock
from server.domain.job import Job, JobState, Order
from server.domain.origin import Origin
from server.storage.files import Retention
from server.storage.inputs import InputFolder
from server.storage.provenance.claims import Telling, made
from server.telemetry.metrics import Metrics

TELLING = Telling("big", "2026-11-22T10:00:00+00:00")


@pytest.fixture
def signed(theirs):
    return theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))


async def kept(tmp_path, room, image, *controls):
    """Places of the files that are kept."""
    inputs = InputFolder(tmp_path, Retention(1000, 1 << 20), SetClock())
    pictures = Pictures(Uploads(1 << 20, Metrics()), inputs, 1 << 20, origins=room)
    options = Shaping(controls=tuple(ControlOption("canny", image=str(index)) for index in range(len(controls))))
    source = pictures.source("t", {str(index): data for index, data in enumerate(controls)})
    supplied = await source.supplied(options, image, None)
    assert all(origin.media_type == "image/png" for origin in supplied.origins)
    return [origin.place for origin in supplied.origins]


async def test_only_signed_files_are_kept_and_only_so_many(tmp_path, signed):
    plain = encoded()
    assert await kept(tmp_path, 1 << 20, signed, plain, signed) == ["image", "controls[1].image"]
    assert await kept(tmp_path, len(signed), signed, signed) == ["image"]
    assert await kept(tmp_path, len(signed) - 1, signed, signed) == []
    assert await kept(tmp_path, 0, signed) == []


def test_a_job_that_is_over_forgets_them(signed):
    order = Order(asked(), origins=(Origin("image", "image/png", signed),))
    job = Job("j", order, JobState.QUEUED, 1.0)
    assert job.without_input().order.origins == ()
