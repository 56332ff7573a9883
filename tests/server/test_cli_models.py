"""``aquatint models``: one card shown, checked, fetched, one file converted."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.contract.catalog import Defaults, ModelCard, ModelFacts
from pipelines.contract.family import Family
from server.cli import main
from server.cli.checking import request_for

CATALOG = """\
server: {default_model: a}
models:
  a: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: Euler a}}
  broken: {source: "fake:?fail_seed=0", family: fake, defaults: {width: 64, height: 64, steps: 4}}
aliases: {b: a}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.yaml").write_text(CATALOG)
    return lambda *arguments: CliRunner().invoke(main, ["models", *arguments])


def test_show_prints_the_whole_card(run):
    import yaml

    card = yaml.safe_load(run("show", "b").output)
    assert (card["id"], card["defaults"]["sampler"], card["limits"]["max_steps"]) == ("a", "Euler a", 150)
    assert run("show", "c").exit_code == 1


def test_list_names_models_and_what_stands_beside_them(run, tmp_path):
    more = "loras: {ink: {source: bundled:ink, family: sd}}\nupscalers: {sharp: {source: bundled:sharp}}\n"
    (tmp_path / "models.yaml").write_text(CATALOG + more)
    lines = run("list").output.splitlines()
    assert lines[0] == "a (default)\tfake\tfake:\tb"
    assert lines[-2:] == ["loras.ink\tsd\tbundled:ink\t", "upscalers.sharp\tany\tbundled:sharp\t"]


def test_check_loads_the_model_and_makes_a_picture(run, tmp_path):
    result = run("check", "a", "--device", "fake", "--out", "x.png")
    assert result.exit_code == 0, result.output
    assert "loaded in" in result.output
    assert "step 4 of 4" in result.output
    assert Image.open(tmp_path / "x.png").size == (64, 64)


def test_check_tells_why_not(run):
    result = run("check", "broken", "--device", "fake")
    assert result.exit_code == 1
    assert "Error: " in result.output
    result = run("check", "a", "--device", "fake", "--out", "no/such/folder.png")
    assert (result.exit_code, "cannot be written" in result.output) == (1, True)


def test_pull_has_nothing_to_do_for_local_sources(run):
    result = run("pull", "a", "broken")
    assert result.exit_code == 0
    assert result.output.count("nothing to download") == 2


def test_convert_passes_the_reason_on(run, tmp_path):
    (tmp_path / "x.ckpt").write_text("no pickle")
    result = run("convert", "x.ckpt", "x.safetensors")
    assert result.exit_code == 1
    assert "x.ckpt is no pickle" in result.output


def test_one_download_for_each_repository():
    from pipelines.contract.catalog import Family, ModelCard
    from server.cli.models import _repositories

    card = ModelCard(
        id="x",
        source="hf:org/sd3",
        revision="v1",
        family=Family.SD3,
        vae="hf:org/vae@abc",
        text_encoders={"text_encoder_3": None, "text_encoder_2": "dir:/g"},
    )
    assert _repositories(card) == [
        ["org/sd3", "--revision=v1", "--without=text_encoder_3", "--without=text_encoder_2", "--without=vae"],
        ["org/vae@abc", "--only=vae"],
    ]
    assert json.dumps(_repositories(ModelCard(id="y", source="dir:/y", family=Family.SD))) == "[]"


def test_a_flow_model_is_checked_with_a_schedule_that_only_flow_models_take():
    defaults = Defaults(width=64, height=64, sampler="lcm", scheduler="karras")
    card = ModelCard(id="m", source="dir:/m", family=Family.SD3, defaults=defaults)
    facts = ModelFacts(Family.SD3, "flow_prediction", "float32", 0, 0, 16, inpainting=False, load_seconds=0.0)
    assert request_for(card, facts, "a cat", 0).sampling.scheduler == "karras"
