import io

import pytest
from authorities import xmp
from PIL import Image

from pipelines.contract.picture import Picture
from server.catalog.loading import parse
from server.catalog.positions import CatalogError
from server.domain.asset import Delivery, Format
from server.domain.disclosure import Disclosure
from server.domain.origin import Source
from server.storage.encode import encode
from server.storage.kinds import media_type
from server.storage.xmp import packet

MODELS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64}}}
"""


def catalog(tmp_path, text):
    return parse(MODELS + text, name="models.yaml", folder=tmp_path)


def test_tenants_differ(tmp_path):
    found = catalog(
        tmp_path,
        """
tenants:
  default: {disclosure: {text: Made by a machine}}
  studio: {disclosure: {header: false}}
  press: {disclosure: {metadata: false, text: ""}}
""",
    )
    assert found.policy("anybody").disclosure == Disclosure(text="Made by a machine")
    assert found.policy("studio").disclosure == Disclosure(header=False, text="Made by a machine")
    assert found.policy("press").disclosure == Disclosure(metadata=False)


def test_without_a_policy_pictures_say_what_they_are(tmp_path):
    assert catalog(tmp_path, "").policy("local").disclosure == Disclosure(header=True, metadata=True, text="")


@pytest.mark.parametrize("wrong", ['{text: "two\\nlines"}', '{text: "\\0"}', "{header: sometimes}", "{watermark: true}"])
def test_what_cannot_be_obeyed_is_refused_with_its_line(tmp_path, wrong):
    with pytest.raises(CatalogError, match=r"models\.yaml:\d+: tenants\.default\.disclosure"):
        catalog(tmp_path, f"tenants: {{default: {{disclosure: {wrong}}}}}\n")


@pytest.mark.parametrize("form", Format)
def test_a_file_is_known_by_its_first_bytes(form):
    assert media_type(encode(Picture(1, 1, "L", b"\0"), Delivery(form))) == form.media_type


@pytest.mark.parametrize("data", [b"", b"hello", b"RIFF....WAVE", b"\0\0\0\x1cftypheic", b"%PDF-1.7"])
def test_other_files_are_not(data):
    assert media_type(data) is None


@pytest.mark.parametrize("kind", Source)
def test_the_packet_is_xml(kind):
    target = io.BytesIO()
    Image.new("L", (1, 1)).save(target, "WEBP", xmp=packet(kind, "a < b & c"))
    source = f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind.value}"
    assert xmp(target.getvalue()) == {"DigitalSourceType": source, "li": "a < b & c"}
