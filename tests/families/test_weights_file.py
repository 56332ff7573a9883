"""Pickles are refused by what they are, not by what they are called; damaged files say that they are."""

import io
import pickle
import struct
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.sources import checked, folder
from pipelines.families.weights_file import inspect, is_pickle


def _zip():
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file)
    return file.getvalue()


def _legacy():
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def _plain_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return file.getvalue()


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"))
    return file.getvalue()


PICKLES = [_zip(), _legacy(), _plain_zip(), _tar(), pickle.dumps({"x": 1})]


@pytest.mark.parametrize("data", PICKLES, ids=["torch", "legacy torch", "zip", "tar", "pickle"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model"])
def test_a_pickle_is_one_under_any_name(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data)
    assert is_pickle(path)
    with pytest.raises(ModelLoadFailed, match=r"is a pickle.*aquatint models convert"):
        inspect(path)
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    path.rename(tmp_path / "unet" / name)
    with pytest.raises(ModelLoadFailed, match=r"is a pickle.*aquatint models convert"):
        checked(tmp_path)


def test_safetensors_is_read_under_any_name(tmp_path):
    path = tmp_path / "model.ckpt"
    save_file({"a": torch.zeros(2, 3, dtype=torch.float16)}, tmp_path / "x", metadata={"format": "pt"})
    (tmp_path / "x").rename(path)
    found = inspect(path)
    assert found.shapes == {"a": (2, 3)}
    assert found.tensors["a"].dtype == "F16"
    assert found.metadata == {"format": "pt"}
    assert not is_pickle(path)


def test_a_header_that_looks_like_a_pickle_is_none(tmp_path):
    """A header of 0x280 bytes begins with pickle's PROTO opcode."""
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x280)
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert not is_pickle(path)
    assert inspect(path).shapes == {"a": (1,)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1], "is cut short: its header speaks of"),
        (lambda data: data[:40], "no safetensors file, or a damaged one"),
        (lambda data: data + b"x", "has something behind its end"),
        (lambda _: b"", "no safetensors file"),
        (lambda _: b"<!DOCTYPE html>" * 40, "no safetensors file"),
        (lambda data: data.replace(b"data_offsets", b"data_0ffsets"), "damaged safetensors header"),
    ],
)
def test_a_damaged_file_says_so(tmp_path, spoil, message):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelLoadFailed, match=message):
        inspect(path)


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ModelLoadFailed, match="No such file"):
        inspect(tmp_path / "none")
    with pytest.raises(ModelLoadFailed, match="is no folder"):
        folder(f"dir:{tmp_path / 'none'}")


def test_pickles_beside_safetensors_are_left_alone(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(PICKLES[0])
    assert checked(tmp_path) == tmp_path
