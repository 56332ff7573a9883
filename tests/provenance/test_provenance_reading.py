"""Files that mean no good: whatever is in them, there is an answer, and soon."""

import json
import struct
import zlib

import pytest
from authorities import MEDIA, asked, encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.storage.provenance.claims import Claim, Telling, made
from server.storage.provenance.reading import Inspector, _findings, signed

TELLING = Telling("sdxl", "2026-11-22T10:00:00+00:00")


def box(kind, data):
    return struct.pack(">I", len(data) + 8) + kind + data


def with_store(store):
    plain, chunk = encoded(), b"caBX" + store
    return plain[:33] + struct.pack(">I", len(store)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + plain[33:]


def nested(depth):
    described = box(b"jumd", bytes.fromhex("6332706100110010800000AA00389B71") + b"\x03c2pa\0")
    store = b""
    for _ in range(depth):
        store = box(b"jumb", described + store)
    return store


@pytest.mark.parametrize("store", [b"", b"\0" * 64, b"\xff" * 64, nested(1), nested(30), nested(5_000)])
def test_a_store_that_is_none(ours, store):
    found = Inspector(ours.anchors).read(with_store(store), "image/png")
    assert found.state in ("invalid", "not_present")
    assert found.state == "not_present" or found.problems


def test_values_within_values(ours):
    """CBOR arrays, a thousand deep, where the claim stands."""
    signed_file = bytearray(ours.signer.sign(encoded(), "image/png", Claim(made(asked(), (), TELLING).actions)))
    start = signed_file.index(b"cbor", signed_file.index(b"c2pa.claim")) + 4
    signed_file[start : start + 200] = b"\x81" * 200
    assert Inspector(ours.anchors).read(bytes(signed_file), "image/png").state == "invalid"


@pytest.fixture(scope="module")
def files(ours):
    return [(kind, ours.signer.sign(encoded(form, (8, 8)), kind, made(asked(), (), TELLING))) for form, kind in MEDIA.items()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_damaged_files(ours, files, data):
    media_type, whole = data.draw(st.sampled_from(files))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(broken) - 1))
        if data.draw(st.booleans()):
            broken[place] = data.draw(st.integers(0, 255))
        else:
            del broken[place : place + data.draw(st.integers(1, 64))]
    found = Inspector(ours.anchors).read(bytes(broken), media_type)
    assert found.state in ("trusted", "valid", "invalid", "not_present")
    assert found.state != "invalid" or found.problems
    json.dumps([found.issuer, found.generator, found.model, found.actions, found.problems])


NAMES = [
    *("manifests", "active_manifest", "ingredients", "assertions", "label", "data", "actions", "action", "softwareAgent"),
    *("digitalSourceType", "relationship", "claim_generator_info", "validation_results", "activeManifest", "failure"),
    *("signature_info", "validation_state"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["a", "c2pa.actions", "parentOf"])
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5), max_leaves=20
)


@given(store=ANYTHING)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_reports_of_any_shape(store):
    """The library gives what the file says: its shapes are only promised."""
    found = _findings({"manifests": {"a": store}, "active_manifest": "a", "validation_results": store, "validation_state": store})
    assert found.state in ("trusted", "valid", "invalid")


def test_long_texts_are_cut(ours):
    acts = ({"action": "c2pa.created", "digitalSourceType": "x" * 9000, "softwareAgent": {"name": "n" * 9000}},)
    claim = Claim(acts, facts={"model": "m" * 9000})
    found = Inspector(ours.anchors).read(ours.signer.sign(encoded(), "image/png", claim), "image/png")
    assert found.model is not None
    assert len(found.model) == 500


def test_the_cheap_look_never_misses_a_manifest(files):
    assert all(signed(data) for _, data in files)
    assert not any(signed(encoded(form)) for form in MEDIA)
