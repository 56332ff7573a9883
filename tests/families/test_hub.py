"""hf: sources against a hub on this machine: what is fetched, what is checked, and that nothing is asked twice."""

import json
import os
import subprocess
import sys

import pytest
from hub_double import COMMIT, Hub, serving
from safetensors.numpy import save

from pipelines.families.hub import patterns


def weights(seed):
    import numpy as np

    return save({"a": np.full(3000, seed, dtype="float32")})


def files():
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "x"], "vae": ["diffusers", "x"]}
    index["text_encoder_3"] = ["transformers", "x"]
    return {
        "model_index.json": json.dumps(index).encode(),
        "README.md": b"hello",
        "model.ckpt": b"\x80\x02pickle",
        "single.safetensors": weights(9),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights(1),
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(2),
        "unet/diffusion_pytorch_model.bin": b"\x80\x02pickle",
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": weights(3),
        "text_encoder_3/model.safetensors": weights(4),
        "safety_checker/model.safetensors": weights(5),
    }


WANTED = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def hub(tmp_path):
    double = Hub(files())
    with serving(double) as url:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        double.environment = clean | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"}
        yield double


def pull(hub, *arguments, **changes):
    command = [sys.executable, "-m", "pipelines.families.pull", "org/model", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**hub.environment, **changes})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return done.returncode, lines


def below(path):
    from pathlib import Path

    root = Path(path)
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_a_download_loads_no_torch():
    """It takes seconds, and whoever pulls waits for them."""
    loaded = "import sys, pipelines.families.pull; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_only_what_is_needed_is_fetched_with_the_token_and_checked(hub):
    code, lines = pull(hub, "--lines", "--without=text_encoder_3")
    assert code == 0, lines
    assert lines[-1]["files"] == len(WANTED)
    assert lines[-1]["path"].endswith(COMMIT)
    assert below(lines[-1]["path"]) == WANTED
    fractions = [line["fraction"] for line in lines[:-1]]
    assert fractions == sorted(fractions)
    assert 0 < fractions[-1] <= 1
    assert {token for _, path, token in hub.asked if "/resolve/" in path} == {"Bearer hf_secret"}
    # One part, of what is already there: nothing more is downloaded.
    hub.asked.clear()
    code, lines = pull(hub, "--only=vae")
    assert (code, lines[-1]["files"]) == (0, 2)
    assert not [path for method, path, _ in hub.asked if method == "GET" and "resolve" in path]


def test_a_wrong_checksum_is_told_and_the_file_removed(hub):
    hub.corrupt.add("vae/diffusion_pytorch_model.safetensors")
    code, (told,) = pull(hub)
    assert code == 1
    assert "checksum of vae/diffusion_pytorch_model.safetensors is wrong" in told["error"]
    hub.corrupt.clear()
    code, (told,) = pull(hub)
    assert code == 0, told


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("--revision=v9",), {}, "no revision 'v9'"),
        ((), {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (("--only=transformer",), {}, "no safetensors"),
    ],
)
def test_what_stands_in_the_way_is_told(hub, arguments, changes, message):
    for path in [path for path in hub.files if "transformer" in " ".join(arguments) and "/" not in path]:
        del hub.files[path]
    code, lines = pull(hub, *arguments, **changes)
    assert code == 1
    assert message in lines[-1]["error"]


def test_a_gated_repository_says_what_to_do(hub):
    hub.gated = True
    code, (told,) = pull(hub)
    assert code == 1
    assert "accept its licence" in told["error"]


PROGRAM = """
import json, sys
from pipelines.contract.errors import ModelLoadFailed
from pipelines.families import hub
said = []
try:
    path = hub.snapshot("org/model", None, lambda part, done: said.append([part, done]), without=("text_encoder_3",))
    print(json.dumps({"path": str(path), "said": said}))
except ModelLoadFailed as error:
    print(json.dumps({"error": error.message, "said": said}))
"""


def snapshot(hub, program=PROGRAM, **changes):
    environment = {**hub.environment, "HF_HUB_OFFLINE": "1", **changes}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_a_worker_downloads_once_and_then_needs_no_network(hub):
    refused = snapshot(hub)
    assert "aquatint models pull" in refused["error"]
    assert hub.asked == []
    first = snapshot(hub, AQUATINT_DOWNLOADS="1")
    assert below(first["path"]) == WANTED
    assert first["said"][0] == ["downloading org/model", 0.0]
    hub.asked.clear()
    second = snapshot(hub, AQUATINT_DOWNLOADS="1")
    assert (second["path"], second["said"], hub.asked) == (first["path"], [], [])


def test_patterns_take_no_pickles():
    assert not any(pattern.endswith((".bin", ".ckpt", "*")) for pattern in [*patterns(), *patterns("vae")])


def test_the_command_pulls_where_the_server_is_kept_offline(hub, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from server.cli import main

    (tmp_path / "models.yaml").write_text("server: {default_model: m}\nmodels:\n  m: {source: 'hf:org/model', family: sd}\n")
    for name in ("HF_ENDPOINT", "HF_HOME", "HF_TOKEN"):
        monkeypatch.setenv(name, hub.environment[name])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = CliRunner().invoke(main, ["models", "pull", "m", "--models", str(tmp_path / "models.yaml")])
    assert result.exit_code == 0, result.output
    assert f"m: {len(WANTED) + 1} files" in result.output
    hub.gated = True
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other"))
    result = CliRunner().invoke(main, ["models", "pull", "m", "--models", str(tmp_path / "models.yaml")])
    assert (result.exit_code, "accept its licence" in result.output) == (1, True)


def test_named_files_are_fetched_whatever_they_hold(hub):
    code, (told,) = pull(hub, "--file=model.ckpt", "--file=unet/config.json")
    assert (code, told["files"]) == (0, 2), told
    assert below(told["path"]) == {"model.ckpt", "unet/config.json"}


def test_a_named_file_that_is_not_there_is_named(hub):
    code, (told,) = pull(hub, "--file=model.ckpt", "--file=absent.pth")
    assert (code, told["error"]) == (1, "org/model has no file absent.pth.")


def test_a_worker_downloads_named_files_once(hub):
    names = ("model.ckpt", "unet/config.json")
    program = PROGRAM.replace(
        'hub.snapshot("org/model", None, lambda part, done: said.append([part, done]), without=("text_encoder_3",))',
        f'hub.files("org/model", "main", {names!r}, lambda part, done: said.append([part, done]))[0].parent',
    )
    refused = snapshot(hub, program)
    assert "pipelines.families.pull org/model --file=model.ckpt --file=unet/config.json" in refused["error"]
    assert hub.asked == []
    first = snapshot(hub, program, AQUATINT_DOWNLOADS="1")
    assert below(first["path"]) == set(names)
    assert first["said"][0] == ["downloading org/model", 0.0]
    hub.asked.clear()
    second = snapshot(hub, program)
    assert (second["path"], second["said"], hub.asked) == (first["path"], [], [])
