"""A pickle becomes safetensors without running anything it names."""

import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.families.convert import Unconvertible, convert


class ModelCheckpoint:
    """As pytorch-lightning pickles its callbacks into checkpoints."""

    __module__ = "pytorch_lightning.callbacks.model_checkpoint"

    def __init__(self):
        self.best = 1.0


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def checkpoint():
    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "state_dict": {"a": shared, "b": shared, "row": shared[1], "turned": shared.T, "half": torch.ones(2).half(), "step": 3},
        "epoch": 7,
        "global_step": 875000,
    }


@pytest.mark.parametrize("modern", [True, False])
def test_every_tensor_is_kept_and_the_rest_left_out(tmp_path, modern):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.safetensors"
    torch.save(checkpoint(), source, _use_new_zipfile_serialization=modern)
    assert "5 tensors" in convert(source, target)
    found, wanted = load_file(target), checkpoint()["state_dict"]
    assert found.keys() == {"a", "b", "row", "turned", "half"}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    with safe_open(target, "pt") as file:
        assert file.metadata()["converted_from"] == "x.ckpt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ckpt", "x.safetensors"]


def test_dictionaries_within_are_part_of_the_names(tmp_path):
    source, target = tmp_path / "ip-adapter.bin", tmp_path / "ip-adapter.safetensors"
    torch.save({"image_proj": {"proj.weight": torch.ones(2)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(3)}}, source)
    assert "2 tensors" in convert(source, target)
    assert {name: len(tensor) for name, tensor in load_file(target).items()} == {
        "image_proj.proj.weight": 2,
        "ip_adapter.1.to_k_ip.weight": 3,
    }


def test_training_callbacks_are_left_out_unseen(tmp_path, monkeypatch):
    import types

    source, target = tmp_path / "x.ckpt", tmp_path / "x.safetensors"
    module = types.ModuleType(ModelCheckpoint.__module__)
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", ModelCheckpoint.__module__):
        monkeypatch.setitem(sys.modules, name, module)
    torch.save({**checkpoint(), "callbacks": {ModelCheckpoint: ModelCheckpoint()}}, source)
    monkeypatch.undo()
    assert "5 tensors" in convert(source, target)


@pytest.mark.parametrize("modern", [True, False])
def test_code_is_refused_and_not_run(tmp_path, modern):
    source, mark = tmp_path / "x.ckpt", tmp_path / "mark"
    torch.save({**checkpoint(), "evil": Evil(mark)}, source, _use_new_zipfile_serialization=modern)
    with pytest.raises(Unconvertible, match=r"posix\.mkdir|weights_only"):
        convert(source, tmp_path / "y.safetensors")
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(Unconvertible, match="weights_only"):
        convert(tmp_path / "raw.bin", tmp_path / "y.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.bin", "x.ckpt"]


def test_what_needs_no_conversion_says_so(tmp_path):
    source = tmp_path / "x.ckpt"
    save_file({"a": torch.zeros(1)}, source)
    with pytest.raises(Unconvertible, match="is safetensors already"):
        convert(source, tmp_path / "y.safetensors")
    source.write_bytes(b"nothing useful")
    with pytest.raises(Unconvertible, match="is no pickle"):
        convert(source, tmp_path / "y.safetensors")
    torch.save({"epoch": 3}, source)
    with pytest.raises(Unconvertible, match="holds no tensors"):
        convert(source, tmp_path / "y.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"mine")
    with pytest.raises(Unconvertible, match="exists already"):
        convert(source, tmp_path / "y.safetensors")
    assert (tmp_path / "y.safetensors").read_bytes() == b"mine"


def test_the_command(tmp_path):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.safetensors"
    torch.save(checkpoint(), source)
    command = [sys.executable, "-m", "pipelines.families.convert", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "5 tensors" in done.stdout) == (0, True), done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
