from pathlib import Path

import pytest

from pipelines.contract.catalog import Family
from pipelines.contract.errors import UnknownModel
from server.catalog.loading import load, parse
from server.catalog.positions import CatalogError

GOOD = """\
server: {default_model: a}
models:
  a:
    source: "fake:"
    family: fake
  org/b:
    source: dir:weights/b
    family: sd
    preload: true
    defaults: {width: 256, height: 256, sampler: Euler a}
    limits:
      max_steps: 50
    qualities: {high: 40}
aliases: {dall-e-3: org/b}
"""


def catalog(text=GOOD):
    return parse(text, name="models.yaml", folder=Path("/etc/aquatint"))


def refused(text):
    with pytest.raises(CatalogError) as caught:
        catalog(text)
    return str(caught.value)


def test_reads_cards_aliases_and_default():
    found = catalog()
    assert found.card(None).id == "a"
    assert found.card("dall-e-3") is found.card("org/b")
    assert found.card("org/b").source == "dir:/etc/aquatint/weights/b"
    assert found.card("org/b").limits.max_steps == 50
    assert found.card("a").family is Family.FAKE
    assert [card.id for card in found.preload] == ["a", "org/b"]
    with pytest.raises(UnknownModel, match="there are a, org/b"):
        found.card("c")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default_model: a", "default_model: z", "models.yaml:1: server.default_model: there is no model 'z'"),
        ("family: fake", "family: sdxl", "models.yaml:5: models.a.family: Invalid enum value 'sdxl'"),
        ("max_steps: 50", "max_step: 50", "models.yaml:12: models.org/b.limits.max_step: there is no such setting"),
        ("max_steps: 50", "max_steps: lots", "models.yaml:12: models.org/b.limits.max_steps: Expected `int`, got `str`"),
        ("max_steps: 50", "max_steps: 0", "models.yaml:12: models.org/b.limits.max_steps: must be 1 or more"),
        ("sampler: Euler a", "sampler: magic", "models.yaml:10: models.org/b.defaults.sampler: There is no sampler 'magic'"),
        ("width: 256", "width: 250", "models.yaml:10: models.org/b.defaults.width: must be a multiple of 8"),
        ("sampler: Euler a", "guidance_rescale: 2", "models.yaml:10: models.org/b.defaults.guidance_rescale: must be from 0"),
        ("width: 256", "width: 8192", "models.yaml:10: models.org/b.defaults.width: the default size is over"),
        ("{high: 40}", "{high: 90}", "models.yaml:13: models.org/b.qualities.high: must be from 1 to max_steps=50"),
        ("{high: 40}", "{high: many}", "models.yaml:13: models.org/b.qualities: Expected `int`, got `str`"),
        ("source: dir:weights/b", "source: s3://x", "models.yaml:7: models.org/b.source: must begin with one of"),
        ("    source: dir:weights/b\n", "", "models.yaml:6: models.org/b: Object missing required field `source`"),
        (
            "    family: sd\n",
            "    family: sd\n    family: sd\n",
            "models.yaml:9: models.org/b.family: this key stands here twice",
        ),
        ("    family: sd\n", "    family: sd\n    id: x\n", "models.yaml:9: models.org/b.id: the id is the key above"),
        ("dall-e-3: org/b", "dall-e-3: c", "models.yaml:14: aliases.dall-e-3: there is no model 'c'"),
        ("dall-e-3: org/b", "a: org/b", "models.yaml:14: aliases.a: a model has this name already"),
        ("aliases:", "alias:", "models.yaml:14: alias: there is no such setting"),
        ("aliases: {", "aliases: ]{", "models.yaml:14: "),
        ("  a:\n", "  a b:\n", "models.yaml:3: models.a b: an id is made of"),
        ("preload: true", "preload: 3", "models.yaml:9: models.org/b.preload: Expected `bool`, got `int`"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(old, new, message):
    assert old in GOOD
    assert refused(GOOD.replace(old, new)).startswith(message)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "models: {}\nserver: {default_model: a}", "just words", "\tx: 1", "models: [1]\nserver: {default_model: a}"],
)
def test_nothing_useful_is_refused(text):
    assert refused(text).startswith("models.yaml:")


def test_code_in_yaml_is_not_run():
    assert "models.yaml" in refused(GOOD.replace('"fake:"', "!!python/object/apply:os.system [id]"))


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_the_packaged_catalog_is_the_one_at_the_root():
    root = Path(__file__).parents[2] / "models.yaml"
    assert load(None).card(None).source == "bundled:demo"
    assert root.read_text() == (root.parent / "server/catalog/models.yaml").read_text()


def test_a_default_sampler_that_cannot_run_the_model_s_schedule_is_told():
    zero_snr = GOOD.replace("preload: true", "schedule: {zero_snr: true}")
    assert catalog(zero_snr).card("org/b").schedule.zero_snr
    message = refused(zero_snr.replace("Euler a", "Heun"))
    assert message.startswith("models.yaml:10: models.org/b.defaults.sampler: Sampler 'heun' cannot run")
