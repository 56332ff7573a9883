"""A card's own VAE and text encoders, from folders and files, whole pipelines and parts."""

import json

import pytest
import torch
from checkpoints import kind, modules, write
from safetensors.torch import load_file, save_file

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.opening import open_parts
from pipelines.families.weights_file import inspect

CPU = torch.device("cpu")


def opened(folder, family=Family.SD, **fields):
    said = []
    card = ModelCard(id="x", source=f"dir:{folder}", family=family, **fields)
    return open_parts(card, CPU, torch.float32, lambda part, _done: said.append(part)), said


def changed(module, path):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    module.save_pretrained(path, safe_serialization=True)
    return module.state_dict()


def equal(found, wanted):
    found = found.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_vae_from_elsewhere(tmp_path):
    folder, file = write("sd1", tmp_path)
    other = changed(modules("sd1")["vae"], tmp_path / "other")
    (tmp_path / "pipeline").mkdir()
    changed(modules("sd1")["vae"], tmp_path / "pipeline" / "vae")
    import original

    save_file(original.vae(other, 3), tmp_path / "ldm.safetensors")
    save_file(original.vae(other, 3, prefix=""), tmp_path / "bare.safetensors")
    own = modules("sd1")["vae"].state_dict()
    assert equal(opened(folder)[0].module("vae", kind("sd1", "vae")), own)
    for source in ("dir:other", "dir:pipeline", "file:ldm.safetensors", "file:bare.safetensors"):
        scheme, _, name = source.partition(":")
        parts, said = opened(folder, vae=f"{scheme}:{tmp_path / name}")
        assert equal(parts.module("vae", kind("sd1", "vae")), other), source
        assert set(said) == {"vae"}
        assert parts.has("vae")
    assert parts.settings()["_class_name"] == "StableDiffusionPipeline"
    assert parts.scheduler_config()["_class_name"] == "PNDMScheduler"
    with pytest.raises(ModelLoadFailed, match="holds no vae"):
        opened(folder, vae=f"dir:{folder / 'scheduler'}")
    checkpoint = inspect(file)
    save_file({name: t for name, t in load_file(file).items() if "first_stage" not in name}, tmp_path / "none.safetensors")
    assert checkpoint.tensors
    with pytest.raises(ModelLoadFailed, match="holds no vae in a layout"):
        opened(folder, vae=f"file:{tmp_path / 'none.safetensors'}")[0].module("vae", kind("sd1", "vae"))


def test_text_encoders_from_elsewhere_and_none(tmp_path):
    folder, _ = write("sd3-medium", tmp_path)
    other = changed(modules("sd3-medium")["text_encoder_2"], tmp_path / "g")
    t5 = modules("sd3-medium")["text_encoder_3"]
    wanted = changed(t5, tmp_path / "t5")
    save_file(
        {name: tensor.clone() for name, tensor in wanted.items() if "embed_tokens" not in name}, tmp_path / "t5.safetensors"
    )
    named = {"text_encoder_2": f"dir:{tmp_path / 'g'}", "text_encoder_3": None}
    parts, _ = opened(folder, Family.SD3, text_encoders=named)
    assert equal(parts.module("text_encoder_2", kind("sd3-medium", "text_encoder_2")), other)
    assert not parts.has("text_encoder_3")
    assert parts.has("text_encoder")
    for source in (f"dir:{tmp_path / 't5'}", f"file:{tmp_path / 't5.safetensors'}"):
        parts, _ = opened(folder, Family.SD3, text_encoders={"text_encoder_3": source})
        assert parts.has("text_encoder_3")
        assert equal(parts.module("text_encoder_3", kind("sd3-medium", "text_encoder_3")), wanted)


def test_a_tokenizer_beside_a_text_encoder_is_taken(tmp_path):
    from transformers import CLIPTokenizer

    demo = "pipelines/bundled/demo/tokenizer"
    folder, _ = write("sd1", tmp_path)
    changed(modules("sd1")["text_encoder"], tmp_path / "clip")
    CLIPTokenizer.from_pretrained(demo, local_files_only=True).save_pretrained(tmp_path / "clip")
    parts, _ = opened(folder, text_encoders={"text_encoder": f"dir:{tmp_path / 'clip'}"})
    wanted = CLIPTokenizer.from_pretrained(demo, local_files_only=True)
    assert len(parts.tokenizer("tokenizer", CLIPTokenizer)) == len(wanted)


def test_a_pickled_part_is_refused(tmp_path):
    folder, _ = write("sd1", tmp_path)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({}))
    torch.save({}, tmp_path / "vae" / "weights")
    with pytest.raises(ModelLoadFailed, match="is a pickle"):
        opened(folder, vae=f"dir:{tmp_path / 'vae'}")
