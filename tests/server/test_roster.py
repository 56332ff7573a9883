"""Names under which workers know models."""

from types import MappingProxyType

import msgspec
import pytest

from pipelines.contract.catalog import Attention, Compile, Defaults, Dtype, Emphasis, Limits, ModelCard, Quantize, Schedule
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest, Refiner, Sampling
from pipelines.engine.models import _same_weights
from server.catalog.catalog import Catalog
from server.fleet.roster import by_name, in_plain_words, name_of, roster

CARD = ModelCard("org/m", "hf:a/b", Family.SD)

SAME = {
    "defaults": Defaults(steps=3),
    "limits": Limits(max_rows=3),
    "qualities": {"low": 3},
    "preload": True,
    "pin": True,
    "owned_by": "us",
    "description": "ours",
}
OTHER = {
    "source": "hf:a/c",
    "family": Family.SDXL,
    "revision": "main",
    "dtype": Dtype.FLOAT16,
    "vae": "dir:/vae",
    "text_encoders": {"text_encoder": "dir:/clip"},
    "schedule": Schedule(zero_snr=True),
    "emphasis": Emphasis.NONE,
    "embedded_guidance": True,
    "attention": Attention.XFORMERS,
    "compile": Compile.BLOCKS,
    "quantize": Quantize.INT8,
}


@pytest.mark.parametrize("field", sorted({*SAME, *OTHER}))
def test_only_what_decides_the_weights_and_their_use_makes_another_name(field):
    changed = msgspec.structs.replace(CARD, **{field: {**SAME, **OTHER}[field]})
    assert (name_of(changed) == name_of(CARD)) is (field in SAME)
    assert _same_weights(changed, CARD) is (field in SAME)  # the engine is of the same opinion


def test_a_name_shows_the_id_and_can_be_told_from_every_id():
    assert name_of(CARD).rpartition("@")[0] == "org/m"
    assert name_of(CARD) == name_of(msgspec.json.decode(msgspec.json.encode(CARD), type=ModelCard))


def test_a_request_and_its_refiner_go_under_names_and_errors_come_back_under_ids():
    cards = {name: ModelCard(name, "fake:", Family.FAKE) for name in ("a", "b")}
    found = roster(Catalog("b", MappingProxyType(cards)))
    asked = ImageRequest("r", "a", "p", 8, 8, (1,), Sampling("euler", 1, 1.0), refiner=Refiner("b", 0.5))
    sent = by_name(asked, found.names)
    assert (sent.model, sent.refiner) == (name_of(cards["a"]), Refiner(name_of(cards["b"]), 0.5))
    assert found.eager == (name_of(cards["b"]),)
    assert in_plain_words(f"Model {sent.model!r} is not {sent.refiner.model!r}.", found.cards.items()) == "Model 'a' is not 'b'."
