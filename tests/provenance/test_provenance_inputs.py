"""Which files of inputs are kept beside their pixels."""

import pytest
from authorities import asked, encoded

from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.control import ReferenceUse
from pipelines.contract.family import Family
from pipelines.contract.request import Init
from server.api.native.batch_inputs import Refilling, pictured
from server.api.native.bodies import GenerateRequest
from server.api.options import ControlOption, ReferenceOption, Shaping
from server.api.pictures import Pictures
from server.api.uploads import Uploads
from server.domain.batch import Line, Wanted
from server.domain.clock import SetClock
from server.domain.job import DOT, Job, JobState, Order
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


class Copies:
    """Pictures of a batch."""

    def __init__(self, **kept):
        self._kept = kept

    async def input(self, _batch_id, name):
        return self._kept[name]


@pytest.mark.parametrize("room", [0, 1 << 20])
async def test_a_line_of_a_batch_names_them_as_it_was_sent(signed, room):
    card = ReferenceCard("plus", "file:plus", Family.FAKE)
    body = GenerateRequest(
        image="asset_signed",
        references=[
            ReferenceOption("plus", image="asset_signed"),
            ReferenceOption("plus", images=["asset_plain", "asset_signed"]),
            ReferenceOption("plus", images=["asset_signed"]),
        ],
    )
    names = pictured(body)
    uses = tuple(ReferenceUse(card, (DOT,) * len(each)) for each in names.references)
    order = Order(asked(init=Init(DOT), references=uses))
    refilling = Refilling(Uploads(1 << 20, Metrics()), Copies(asset_signed=signed, asset_plain=encoded()), 1 << 20, origins=room)
    whole = await refilling("b", Line(1, "x", Wanted(order, names)))
    places = [origin.place for origin in whole.origins]
    expected = ["image", "references[0].image", "references[1].images[1]", "references[2].images[0]"]
    assert places == (expected if room else [])
    assert [[picture.width for picture in use.pictures] for use in whole.request.references] == [[64], [64, 64], [64]]


def test_a_job_that_is_over_forgets_them(signed):
    order = Order(asked(), origins=(Origin("image", "image/png", signed),))
    job = Job("j", order, JobState.QUEUED, 1.0)
    assert job.without_input().order.origins == ()
