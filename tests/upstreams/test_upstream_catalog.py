"""`upstreams:` in models.yaml: what is on, what names mean, and what is refused with its line."""

from pathlib import Path

import pytest

from pipelines.contract.errors import UnknownModel
from server.catalog.loading import load, parse
from server.catalog.positions import CatalogError

START = 'server: {default_model: a}\nmodels: {a: {source: "fake:", family: fake}, o/b: {source: "fake:", family: fake}}\n'
KEY = {"OPENAI_API_KEY": "sk-1"}


def catalog(text="", environ=KEY):
    return parse(START + text, name="models.yaml", folder=Path(), environ=environ)


def test_without_a_key_there_is_no_upstream_and_everything_is_ours():
    found = load(None)
    assert found.upstreams == {}
    assert [found.road(name) for name in (None, "demo", "dall-e-3")] == ["local", "local", "auto"]
    assert found.card("gpt-image-1").id == "demo"


def test_a_key_alone_makes_an_upstream():
    found = catalog(environ={**KEY, "OPENAI_BASE_URL": "https://proxy.example/v1/"})
    openai = found.upstreams["openai"]
    assert (openai.on, openai.base_url, openai.model) == (True, "https://proxy.example/v1", "gpt-image-2.6-flare")
    names = ("openai", "openai/gpt-image-1.5", "a", "o/b", None, "auto")
    assert [found.road(name) for name in names] == ["openai", "openai", "local", "local", "local", "auto"]
    assert found.card("openai/gpt-image-1.5").owned_by == "openai"
    assert "sk-1" not in repr(found)


def test_entries_and_aliases():
    found = catalog(
        "upstreams:\n"
        "  openai: {model: my-deployment, base_url: 'https://x.example/v1', key_env: AZURE_KEY, successor: next, prices: {}}\n"
        "  own: {kind: openai, base_url: 'http://10.0.0.1:8000/v1', key_env: null, model: sd-turbo, sizes: [[512, 512]]}\n"
        "  stability: {monthly_budget_usd: 5}\n"
        "  replicate: {key_env: null, enabled: false}\n"
        "aliases: {dall-e-3: auto, big: openai, x: own/sd-turbo, here: o/b}\n"
    )
    assert {name: road.on for name, road in found.upstreams.items()} == {
        "openai": False,
        "own": True,
        "stability": False,
        "replicate": False,
    }
    assert found.upstreams["openai"].successors == ("next",)
    assert [found.road(name) for name in ("dall-e-3", "big", "x", "here")] == ["auto", "openai", "own", "local"]
    assert found.card("x").defaults.width == 512
    assert found.listed == ("a", "o/b", "own", "own/sd-turbo", *(f"own/{m}" for m in found.upstreams["own"].models))
    with pytest.raises(UnknownModel, match="AZURE_KEY is not set"):
        found.card("openai")
    with pytest.raises(UnknownModel, match="has no model 'own/other'"):
        found.card("own/other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upstreams:\n  local: {kind: openai}\n", "models.yaml:4: upstreams.local: a name is made of"),
        ("upstreams:\n  a: {kind: openai}\n", "models.yaml:4: upstreams.a: a model has this name already"),
        ("upstreams:\n  x:\n    kind: gemini\n", "models.yaml:5: upstreams.x.kind: "),
        ("upstreams:\n  x: {}\n", "models.yaml:4: upstreams.x: "),
        ("upstreams:\n  openai:\n    modle: x\n", "models.yaml:5: upstreams.openai.modle: there is no such setting"),
        ("upstreams:\n  openai:\n    name: x\n", "models.yaml:5: upstreams.openai.name: there is no such setting"),
        ("upstreams:\n  openai:\n    base_url: openai.com\n", "models.yaml:5: upstreams.openai.base_url: must be"),
        ("upstreams:\n  openai:\n    concurrency: 0\n", "models.yaml:5: upstreams.openai.concurrency: must be from 1"),
        ("upstreams:\n  openai:\n    timeouts: {total: -1}\n", "models.yaml:5: upstreams.openai.timeouts.total: must be above"),
        ("upstreams:\n  openai:\n    inputs: {prompt: p}\n", "models.yaml:5: upstreams.openai.inputs: only kind replicate"),
        ("aliases: {x: openai/none}\n", "models.yaml:3: aliases.x: there is no model"),
        ("aliases: {openai: a}\n", "models.yaml:3: aliases.openai: this name means a road already"),
    ],
)
def test_mistakes_are_told_with_their_line(text, message):
    with pytest.raises(CatalogError) as caught:
        catalog(text)
    assert str(caught.value).startswith(message)
