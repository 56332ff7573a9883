"""What the gateway delivers: an upstream's file untouched, or one of ours that keeps what it was made of."""

import io

import pytest
from authorities import asked, encoded, picture, xmp
from PIL import Image

from pipelines.contract.inpainting import Margins
from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from server.db.database import Database, beside
from server.db.migrating import migrate
from server.domain.asset import Delivery, Format
from server.domain.call import Call
from server.domain.clock import SetClock, SystemClock
from server.domain.disclosure import Disclosure
from server.domain.failures import SigningFailed, UpstreamAmbiguous
from server.domain.generation import Encoded, Generation, Route
from server.domain.origin import Origin
from server.gateway.finish import Gateway
from server.gateway.provenance import Provenance
from server.providers.fake import FunctionProvider
from server.storage.provenance.claims import Telling, made
from server.storage.provenance.reading import Inspector
from server.storage.provenance.signing import Signer
from server.telemetry.metrics import Metrics
from tests.doubles.stores import stored_in

STATS = RunStats(0.0, 0.0, 0.0, 0.0, 0, 1.0)
TELLING = Telling("gpt-image", "2026-11-22T10:00:00+00:00")


@pytest.fixture
async def store(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    yield stored_in(tmp_path / "results", database, SystemClock())
    await database.close()


@pytest.fixture
def upstream(theirs):
    return theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))


async def delivered(store, provenance, file=None, *, delivery=None, request=None, origins=(), scaled=None):
    """The file that a caller gets, and its asset."""

    async def function(request, _call):
        route = Route("local") if file is None else Route("openai", "gpt-image")
        size = (scaled.width, scaled.height) if scaled else (64, 48)
        result = picture() if file is None else Encoded(*size, "RGB", file, scaled)
        return Generation("m", (result,), request.seeds, STATS, route)

    gateway = Gateway(FunctionProvider(function), store, Metrics(), provenance=provenance)
    call = Call("c", origins=origins)
    finished = await gateway.generate(request or asked(), delivery or Delivery(), call)
    (asset,) = finished.assets
    return await store.get(asset.name), asset


def provenance(authority, told=None, **options):
    return Provenance(authority and authority.signer, lambda _tenant: told or Disclosure(), clock=SetClock(), **options)


@pytest.mark.parametrize("signing", [False, True])
async def test_an_upstreams_file_is_passed_on_to_the_bit(store, ours, upstream, signing):
    data, asset = await delivered(store, provenance(ours if signing else None), upstream)
    assert data == upstream
    assert (asset.size, asset.width, asset.height) == (len(upstream), 64, 48)


@pytest.mark.parametrize(
    ("delivery", "actions"),
    [
        (Delivery(Format.JPEG), ("c2pa.opened", "c2pa.transcoded")),
        (Delivery(Format.WEBP, 80), ("c2pa.opened", "c2pa.transcoded")),
        (Delivery(Format.PNG, width=32, height=24), ("c2pa.opened", "c2pa.resized", "c2pa.transcoded")),
    ],
)
async def test_encoded_anew_its_manifest_is_the_parents(store, ours, theirs, upstream, *, delivery, actions):
    data, asset = await delivered(store, provenance(ours), upstream, delivery=delivery)
    found = Inspector(ours.anchors + theirs.anchors).read(data, delivery.format.media_type)
    assert (found.state, found.issuer, found.actions) == ("trusted", "Ours", actions)
    assert (found.ai_generated, found.model) == (True, "gpt-image")
    assert [(part.title, part.relation, part.manifest) for part in found.ingredients] == [("openai", "parentOf", True)]
    assert Image.open(io.BytesIO(data)).size == (asset.width, asset.height)


async def test_a_quality_that_was_asked_for_is_not_the_upstreams(store, ours, theirs):
    file = theirs.signer.sign(encoded("JPEG"), "image/jpeg", made(asked(), (), TELLING))
    same, _ = await delivered(store, provenance(ours), file, delivery=Delivery(Format.JPEG))
    other, _ = await delivered(store, provenance(ours), file, delivery=Delivery(Format.JPEG, 50))
    assert same == file
    assert other != file


async def test_an_upstream_that_signs_nothing(store, ours):
    plain = encoded()
    assert (await delivered(store, provenance(None), plain))[0] == plain
    data, _ = await delivered(store, provenance(ours), plain)
    found = Inspector(ours.anchors).read(data, "image/png")
    assert (found.state, found.actions, found.model, found.ingredients) == ("trusted", ("c2pa.created",), "gpt-image", ())


async def test_a_file_that_shows_another_size_than_the_picture_is_not_passed_on(store, ours, upstream):
    """The picture was resized after it came."""
    data, _ = await delivered(store, provenance(ours), upstream, scaled=picture(128, 96))
    assert Image.open(io.BytesIO(data)).size == (128, 96)
    assert Inspector(ours.anchors).read(data, "image/png").actions[1] == "c2pa.resized"


async def test_a_file_that_is_none(store, ours):
    """It was whole when it came, as far as could be seen without decoding it."""
    for junk in (b"", b"junk", b"\x89PNG\r\n\x1a\n jumb c2pa"):
        for signer in (None, ours):
            with pytest.raises(UpstreamAmbiguous):
                await delivered(store, provenance(signer), junk)


def test_another_picture_has_no_file():
    whole = Generation("m", (Encoded(1, 1, "RGB", b"a"), Encoded(1, 1, "RGB", b"b")), (1, 2), STATS)
    blurred = whole.with_picture(1, Picture(1, 1, "L", b"\0"))
    assert blurred.pictures == (whole.pictures[0], Picture(1, 1, "L", b"\0"))


async def test_inputs_are_the_results_ingredients(store, ours, theirs, upstream):
    request = asked(init=Init(picture(), outpaint=Margins(left=8)))
    data, _ = await delivered(store, provenance(ours), request=request, origins=(Origin("image", "image/png", upstream),))
    found = Inspector(ours.anchors).read(data, "image/png")
    assert [(part.title, part.relation, part.manifest) for part in found.ingredients] == [("image", "parentOf", True)]
    assert found.generated_at == "1970-01-12T13:46:40+00:00"


@pytest.mark.parametrize("form", Format)
async def test_metadata_needs_no_certificate(store, ours, form):
    for signing in (None, ours):
        text = 'Von einer <Maschine> & "gemalt" ✏️'
        data, _ = await delivered(store, provenance(signing, Disclosure(text=text)), delivery=Delivery(form))
        source = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        assert xmp(data) == {"DigitalSourceType": source, "li": text}
        quiet, _ = await delivered(store, provenance(signing, Disclosure(metadata=False, text=text)), delivery=Delivery(form))
        assert xmp(quiet) is None


async def test_nothing_goes_out_unsigned(store, tmp_path, ours):
    """A time stamping authority that cannot be reached."""
    broken = Provenance(Signer(ours.credentials, "http://127.0.0.1:1/stamp"))
    with pytest.raises(SigningFailed, match="The picture could not be signed"):
        await delivered(store, broken)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
