"""``aquatint models``: one card shown, checked, fetched, one file converted."""

import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.contract.catalog import Defaults, ModelCard, ModelFacts
from pipelines.contract.family import Family
from server.catalog.loading import parse
from server.cli import main
from server.cli.checking import request_for
from server.cli.downloads import everything, model, wanted

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


PULLED = """\
server: {default_model: xl}
models:
  xl: {source: hf:org/xl, family: sdxl, revision: v1, vae: hf:org/vae@abc}
  here: {source: "fake:", family: fake}
loras:
  Ink: {source: hf:org/ink, family: sdxl, file: ink-v2.safetensors}
  only: {source: hf:org/only, family: sdxl}
  near: {source: file:near.safetensors, family: sdxl}
controlnets: {canny: {source: hf:org/canny, family: sdxl, revision: main}}
ip_adapters: {plus: {source: hf:org/ip, family: sdxl, file: sdxl/plus.safetensors, image_encoder: hf:org/ip/models/clip@v3}}
upscalers: {sharp: {source: hf:org/sharp}}
preprocessors: {softedge_hed: {source: hf:lllyasviel/Annotators}}
"""


@pytest.fixture
def pulled(tmp_path):
    return parse(PULLED, name="models.yaml", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "downloads"),
    [
        ("xl", [["org/xl", "--revision=v1", "--without=vae"], ["org/vae@abc", "--only=vae"]]),
        ("here", []),
        ("loras.ink", [["org/ink", "--one=ink-v2.safetensors"]]),
        ("loras.only", [["org/only", "--one=*.safetensors"]]),
        ("loras.near", []),
        ("controlnets.canny", [["org/canny", "--revision=main", "--only=controlnet"]]),
        ("ip_adapters.plus", [["org/ip", "--one=sdxl/plus.safetensors"], ["org/ip@v3", "--only=models/clip"]]),
        ("upscalers.sharp", [["org/sharp", "--one=*.safetensors"]]),
        ("preprocessors.softedge_hed", [["lllyasviel/Annotators", "--file=ControlNetHED.pth"]]),
    ],
)
def test_one_download_for_each_repository(pulled, name, downloads):
    assert [list(each) for each in wanted(pulled, name).downloads] == downloads


def test_all_entries_are_pulled_by_the_names_that_list_prints(pulled):
    names = [entry.name for entry in everything(pulled)]
    assert names[:3] == ["xl", "here", "loras.Ink"]
    assert len(names) == 9
    assert all(wanted(pulled, name).name == name for name in names)


def test_an_encoder_that_is_left_out_is_not_pulled():
    card = ModelCard(
        id="x",
        source="hf:org/sd3",
        family=Family.SD3,
        text_encoders={"text_encoder_3": None, "text_encoder_2": "dir:/g"},
    )
    assert model(card) == (("org/sd3", "--without=text_encoder_3", "--without=text_encoder_2"),)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "or say --all"),
        (("a", "--all"), "or say --all"),
        (("loras.x",), "lists no 'x' under loras:"),
        (("c",), "does not exist"),
    ],
)
def test_pull_says_what_it_cannot_understand(run, arguments, says):
    result = run("pull", *arguments)
    assert result.exit_code != 0
    assert says in result.output


def test_a_flow_model_is_checked_with_a_schedule_that_only_flow_models_take():
    defaults = Defaults(width=64, height=64, sampler="lcm", scheduler="karras")
    card = ModelCard(id="m", source="dir:/m", family=Family.SD3, defaults=defaults)
    facts = ModelFacts(Family.SD3, "flow_prediction", "float32", 0, 0, 16, inpainting=False, load_seconds=0.0)
    assert request_for(card, facts, "a cat", 0).sampling.scheduler == "karras"
