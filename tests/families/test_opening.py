"""A card of each kind of source, in this process: what loads, and what is refused with which reason."""

import pytest
import torch

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families import loading

CPU = torch.device("cpu")


def card(source, **fields):
    return ModelCard(**{"id": "x", "source": source, "family": Family.SD, **fields})


def test_the_demo_loads_with_its_parts_told():
    said = []
    facts = loading.load(card("bundled:demo"), CPU, lambda part, _done: said.append(part)).facts
    assert (facts.family, facts.inpainting) == (Family.SD, False)
    assert set(said) >= {"text_encoder", "vae", "unet"}


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ("dir:/nowhere", {}, "/nowhere is no folder"),
        ("file:/nowhere", {}, "/nowhere is no file"),
        ("bundled:other", {}, "other is no folder"),
        ("hf:someone/something-that-nobody-has", {}, "aquatint models pull"),
        ("hf:nobody", {}, "write hf:OWNER/NAME"),
        ("", {}, "is not understood"),
        ("s3://bucket", {}, "is not understood"),
        ("bundled:demo", {"family": Family.SDXL}, "family 'sd'; the card says 'sdxl'"),
        ("bundled:demo", {"vae": "dir:/nowhere"}, "/nowhere is no folder"),
    ],
)
def test_what_cannot_be_loaded_says_why(source, fields, message, monkeypatch):
    monkeypatch.delenv("AQUATINT_DOWNLOADS", raising=False)
    with pytest.raises(ModelLoadFailed, match=message):
        loading.parts_of(card(source, **fields), CPU, lambda _part, _done: None)
