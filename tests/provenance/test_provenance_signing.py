"""Files signed and read back, by format and by operation."""

import io
import json
import threading

import c2pa
import pytest
from authorities import MEDIA, asked, encoded, picture
from PIL import Image

from pipelines.contract.adapters import ControlCard, ReferenceCard
from pipelines.contract.control import ControlUse, ReferenceUse
from pipelines.contract.enlarging import Enlarger, Hires, Upscale
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from server.domain.failures import SigningFailed
from server.domain.origin import Origin
from server.storage.provenance.claims import Claim, Ingredient, Telling, encoded_again, made
from server.storage.provenance.context import configuration
from server.storage.provenance.reading import Inspector, Part
from server.storage.provenance.signing import Signer

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TELLING = Telling("sdxl", "2026-11-22T10:00:00+00:00")
MASK = Picture(64, 48, "L", bytes(64 * 48))
"""As the fake draws no picture, what is painted does not matter."""


def manifest(data, media_type, authority):
    """The active manifest by c2pa's own reader."""
    context = c2pa.Context.from_dict(configuration(authority.anchors))
    with c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader:
        return reader.get_validation_state(), reader.get_active_manifest(), json.loads(reader.json())


def actions(found):
    (listed,) = [each["data"]["actions"] for each in found["assertions"] if each["label"] == "c2pa.actions.v2"]
    return listed


@pytest.mark.parametrize("form", MEDIA)
def test_a_new_picture_in_every_format(ours, form):
    plain = encoded(form)
    signed = ours.signer.sign(plain, MEDIA[form], made(asked(), (), TELLING))
    state, found, whole = manifest(signed, MEDIA[form], ours)
    assert state == "Trusted"
    assert found["claim_generator_info"][0]["name"] == "Aquatint"
    assert found["signature_info"]["issuer"] == "Ours"
    (created,) = actions(found)
    assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", IPTC + "trainedAlgorithmicMedia")
    assert created["softwareAgent"]["name"] == "sdxl"
    assert "secret" not in json.dumps(whole)
    assert "thumbnail" not in json.dumps(whole)
    assert len(signed) - len(plain) < 6000
    images = [Image.open(io.BytesIO(each)).convert("RGB").tobytes() for each in (plain, signed)]
    assert images[0] == images[1]


def test_the_prompt_is_there_if_it_may_be(ours):
    telling = Telling("sdxl", TELLING.when, "Made by a machine ✏️", prompt=True)
    _, found, _ = manifest(ours.signer.sign(encoded(), "image/png", made(asked(), (), telling)), "image/png", ours)
    (own,) = [each["data"] for each in found["assertions"] if each["label"] == "org.aquatint.generation"]
    assert own == {"model": "sdxl", "prompt": "a secret cat"}
    assert actions(found)[0]["description"] == "Made by a machine ✏️"


def shown():
    control = ControlUse(ControlCard("canny", "file:canny", Family.FAKE), picture())
    reference = ReferenceUse(ReferenceCard("plus", "file:plus", Family.FAKE), (picture(), picture()))
    return {"controls": (control,), "references": (reference,)}


@pytest.mark.parametrize(
    ("changes", "acts", "parts"),
    [
        ({}, ["created:trainedAlgorithmicMedia"], []),
        ({"init": Init(picture())}, ["created:trainedAlgorithmicMedia"], ["inputTo image"]),
        (
            shown(),
            ["created:trainedAlgorithmicMedia"],
            ["inputTo controls[0].image", "inputTo references[0].images[0]", "inputTo references[0].images[1]"],
        ),
        (
            {"init": Init(picture(), mask=MASK)},
            ["opened", "edited:compositeWithTrainedAlgorithmicMedia"],
            ["parentOf image"],
        ),
        (
            {"init": Init(picture(), outpaint=Margins(left=8)), **shown()},
            ["opened", "edited:compositeWithTrainedAlgorithmicMedia"],
            [
                "inputTo controls[0].image",
                "inputTo references[0].images[0]",
                "inputTo references[0].images[1]",
                "parentOf image",
            ],
        ),
        (
            {"init": Init(picture(), strength=0.0), "upscale": Upscale(128, 96)},
            ["opened", "resized:algorithmicallyEnhanced"],
            ["parentOf image"],
        ),
        (
            {"init": Init(picture(), strength=0.0), "upscale": Upscale(128, 96, Enlarger.MODEL)},
            ["opened", "edited:compositeWithTrainedAlgorithmicMedia"],
            ["parentOf image"],
        ),
        (
            {"init": Init(picture(), strength=0.0), "hires": Hires(128, 96)},
            ["created:trainedAlgorithmicMedia"],
            ["inputTo image"],
        ),
        (
            {"init": Init(picture(), mask=MASK), "hires": Hires(128, 96)},
            ["opened", "edited:compositeWithTrainedAlgorithmicMedia"],
            ["parentOf image"],
        ),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_every_operation(ours, theirs, changes, acts, parts, *, kept):
    """Whether the inputs came with manifests or without."""
    places = [each.partition(" ")[2] for each in parts]
    source = theirs.signer.sign(encoded("JPEG"), "image/jpeg", made(asked(), (), TELLING))
    origins = [Origin(place, "image/jpeg", source) for place in places] if kept else []
    signed = ours.signer.sign(encoded(), "image/png", made(asked(**changes), origins, TELLING))
    state, found, whole = manifest(signed, "image/png", ours)
    assert state == "Trusted"
    assert whole["validation_results"]["activeManifest"]["failure"] == []
    told = [(act["action"].removeprefix("c2pa."), act.get("digitalSourceType", "")) for act in actions(found)]
    assert [f"{verb}:{kind.removeprefix(IPTC)}" if kind else verb for verb, kind in told] == acts
    ingredients = found.get("ingredients", [])
    assert sorted(f"{part['relationship']} {part['title']}" for part in ingredients) == parts
    assert [part.get("active_manifest") is not None for part in ingredients] == [kept] * len(parts)
    # What each action names is what it should: the parent is opened, all else is an input of what was made.
    named = [part for act in actions(found) for part in act.get("parameters", {}).get("ingredients", [])]
    assert len(named) == len(parts)


def test_a_single_reference_by_either_name(ours, theirs):
    source = theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    use = ReferenceUse(ReferenceCard("plus", "file:plus", Family.FAKE), (picture(),))
    for place in ("references[0].image", "references[0].images[0]"):
        claim = made(asked(references=(use,)), [Origin(place, "image/png", source)], TELLING)
        found = Inspector(ours.anchors).read(ours.signer.sign(encoded(), "image/png", claim), "image/png")
        assert [(part.title, part.manifest) for part in found.ingredients] == [(place, True)]


def test_a_changed_pixel_is_found_out(ours):
    signed = bytearray(ours.signer.sign(encoded(), "image/png", made(asked(), (), TELLING)))
    signed[-40] ^= 1
    found = Inspector(ours.anchors).read(bytes(signed), "image/png")
    assert found.state == "invalid"
    assert any(problem.startswith("assertion.dataHash.mismatch") for problem in found.problems)


def test_a_manifest_of_another_picture_is_found_out(ours):
    """The chunk with the manifest, moved into another file."""
    signed = ours.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    start = signed.index(b"caBX") - 4
    chunk = signed[start : start + 12 + int.from_bytes(signed[start : start + 4], "big")]
    other = encoded(size=(48, 64))
    assert Inspector(ours.anchors).read(other[:33] + chunk + other[33:], "image/png").state == "invalid"


def test_who_is_trusted(ours, theirs):
    signed = theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    assert Inspector(theirs.anchors).read(signed, "image/png").state == "trusted"
    for anchors in (b"", ours.anchors):
        found = Inspector(anchors).read(signed, "image/png")
        assert (found.state, found.issuer) == ("valid", "Upstream")
        assert found.problems[0].startswith("signingCredential.untrusted")


def test_an_upstreams_manifest_is_the_parents_when_its_picture_is_encoded_again(ours, theirs):
    by = Telling("big", TELLING.when)
    file = Origin("openai", "image/png", theirs.signer.sign(encoded(), "image/png", made(asked(), (), by)))
    claim = encoded_again(file, resized=True, telling=TELLING)
    found = Inspector(ours.anchors + theirs.anchors).read(ours.signer.sign(encoded("WEBP"), "image/webp", claim), "image/webp")
    assert (found.state, found.issuer) == ("trusted", "Ours")
    assert found.actions == ("c2pa.opened", "c2pa.resized", "c2pa.transcoded")
    # The parent's own words: a model has made it, and which.
    assert (found.ai_generated, found.model) == (True, "big")
    assert [(part.title, part.relation, part.manifest) for part in found.ingredients] == [("openai", "parentOf", True)]


def test_what_was_changed_before_it_came_here_is_told_of_the_ingredient(ours, theirs):
    file = bytearray(theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING)))
    file[-40] ^= 1
    claim = made(asked(init=Init(picture())), [Origin("image", "image/png", bytes(file))], TELLING)
    found = Inspector(ours.anchors).read(ours.signer.sign(encoded(), "image/png", claim), "image/png")
    assert found.state == "trusted"
    (part,) = found.ingredients
    assert any(problem.startswith("assertion.dataHash.mismatch") for problem in part.problems)


@pytest.mark.parametrize("junk", [b"jumb c2pa", b"\x89PNG\r\n\x1a\n jumb c2pa", encoded()[:60] + b"jumb c2pa"])
def test_an_input_that_only_looks_signed_is_an_ingredient_without_manifest(ours, junk):
    request = asked(init=Init(picture()), controls=shown()["controls"])
    good = ours.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    origins = [Origin("image", "image/png", junk), Origin("controls[0].image", "image/png", good)]
    signed = ours.signer.sign(encoded(), "image/png", made(request, origins, TELLING))
    found = Inspector(ours.anchors).read(signed, "image/png")
    assert found.state == "trusted"
    assert {part.title: part.manifest for part in found.ingredients} == {"image": False, "controls[0].image": True}


def test_pictures_made_of_pictures_made_of_pictures(ours):
    """The same file as two inputs, four generations long: manifests are kept once each."""
    file, sizes = encoded(), []
    for _ in range(4):
        origins = [Origin("image", "image/png", file), Origin("controls[0].image", "image/png", file)]
        request = asked(init=Init(picture()), controls=shown()["controls"])
        file = ours.signer.sign(encoded(), "image/png", made(request, origins if sizes else (), TELLING))
        sizes.append(len(file))
    assert Inspector(ours.anchors).read(file, "image/png").state == "trusted"
    assert sizes[3] - sizes[2] < 15_000


def test_many_threads_sign_with_one_signer(ours):
    fresh, states = Signer(ours.credentials), []
    inspector = Inspector(ours.anchors)
    barrier = threading.Barrier(4)

    def work(form):
        barrier.wait(30)
        for index in range(8):
            claim = made(asked(), (), Telling(f"{form}-{index}", TELLING.when))
            found = inspector.read(fresh.sign(encoded(form), MEDIA[form], claim), MEDIA[form])
            states.append((found.state, found.model == f"{form}-{index}"))

    threads = [threading.Thread(target=work, args=(form,)) for form in MEDIA]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert states == [("trusted", True)] * 32


def test_what_cannot_be_signed_is_an_error_and_no_file(ours):
    with pytest.raises(SigningFailed, match="The picture could not be signed"):
        ours.signer.sign(b"no picture", "image/png", made(asked(), (), TELLING))
    nowhere = Claim(({"action": "c2pa.opened", "parameters": {"ingredientIds": ["in7"]}},), (Ingredient("image", "parentOf"),))
    with pytest.raises(SigningFailed):
        ours.signer.sign(encoded(), "image/png", nowhere)


def test_a_file_without_a_manifest(ours):
    for form, media_type in MEDIA.items():
        found = Inspector(ours.anchors).read(encoded(form), media_type)
        assert (found.state, found.ai_generated, found.problems) == ("not_present", False, ())


def test_all_that_is_read(ours):
    telling = Telling("sdxl", TELLING.when, "text")
    claim = made(asked(init=Init(picture())), (), telling)
    found = Inspector(ours.anchors).read(ours.signer.sign(encoded(), "image/png", claim), "image/png")
    assert found.generator is not None
    assert found.generator.startswith("Aquatint 0.")
    assert (found.issuer, found.model, found.generated_at) == ("Ours", "sdxl", TELLING.when)
    assert (found.actions, found.ingredients) == (("c2pa.created",), (Part("image", "inputTo", manifest=False),))
