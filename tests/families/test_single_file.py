"""One file in the original layout equals the diffusers folder of the same weights, without a network."""

import socket

import pytest
import torch
from checkpoints import CLASSES, kind, modules, original_state, write
from safetensors.torch import load_file, save_file

from pipelines.contract.catalog import ModelCard, Schedule
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.detection import Variant
from pipelines.families.opening import open_parts
from pipelines.families.parts import FolderParts
from pipelines.families.single_file import SingleFileParts

CPU = torch.device("cpu")


def refuse(*arguments, **options):
    raise AssertionError("something wants a network")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(socket, "socket", refuse)


def silent(part, fraction):
    pass


@pytest.mark.parametrize("checkpoint", CLASSES)
def test_every_tensor_equals_the_folder_s(checkpoint, tmp_path):
    folder, file = write(checkpoint, tmp_path)
    said = []
    single = SingleFileParts(file, CPU, torch.float32, lambda part, done: said.append((part, done)), configs=folder)
    by_folder = FolderParts(folder, CPU, torch.float32, silent)
    assert single.detected.variant == checkpoint.removesuffix("-inpaint")
    assert single.detected.family is CLASSES[checkpoint][1]
    assert single.detected.inpainting == checkpoint.endswith("inpaint")
    for name in modules(checkpoint):
        found, wanted = single.module(name, kind(checkpoint, name)), by_folder.module(name, kind(checkpoint, name))
        found_state, wanted_state = found.state_dict(), wanted.state_dict()
        assert found_state.keys() == wanted_state.keys()
        for key, tensor in wanted_state.items():
            assert torch.equal(found_state[key], tensor), f"{name}: {key}"
        assert not found.training
        assert not any(p.requires_grad or p.is_meta for p in found.parameters())
        assert (said[-1][0], round(said[-1][1], 2)) == (name, 1.0)


def test_sd3_s_clip_l_without_a_projection_has_the_identity(tmp_path):
    folder, file = write("sd3-medium", tmp_path)
    state = load_file(file)
    del state["text_encoders.clip_l.transformer.text_projection.weight"]
    save_file(state, file)
    found = SingleFileParts(file, CPU, torch.float32, silent, configs=folder)
    module = found.module("text_encoder", kind("sd3-medium", "text_encoder"))
    assert torch.equal(module.text_projection.weight, torch.eye(16))


def test_half_precision_keeps_t5_s_wide_layers(tmp_path):
    folder, file = write("sd3-medium", tmp_path)
    found = SingleFileParts(file, CPU, torch.float16, silent, configs=folder)
    wanted = FolderParts(folder, CPU, torch.float16, silent)
    for name in ("text_encoder_3", "transformer"):
        pair = [parts.module(name, kind("sd3-medium", name)).state_dict() for parts in (found, wanted)]
        assert {key: tensor.dtype for key, tensor in pair[0].items()} == {key: tensor.dtype for key, tensor in pair[1].items()}


def test_t5_without_a_tokenizer_is_left_out_and_says_so(tmp_path, caplog):
    folder, file = write("sd3-medium", tmp_path)
    found = SingleFileParts(file, CPU, torch.float32, silent, configs=folder)
    assert not found.has("text_encoder_3")
    assert "no tokenizer" in caplog.text
    assert found.has("text_encoder_2")
    with pytest.raises(ModelLoadFailed, match="No tokenizer_3 comes with single files"):
        found.tokenizer("tokenizer_3", object)


@pytest.mark.parametrize(
    ("family", "schedule", "message"),
    [
        ("sdxl", {}, "is a checkpoint of family 'sd' \\(sd1\\), the card says 'sdxl'"),
        ("sd", {"prediction_type": "epsilon"}, "marked as predicting 'v_prediction', the card's schedule says 'epsilon'"),
    ],
)
def test_what_contradicts_the_card_is_refused_with_both(tmp_path, family, schedule, message):
    file = tmp_path / "x.safetensors"
    save_file({**original_state("sd1", modules("sd1")), "v_pred": torch.zeros(0)}, file)
    card = ModelCard(id="x", source=f"file:{file}", family=Family(family), schedule=Schedule(**schedule))
    with pytest.raises(ModelLoadFailed, match=message):
        open_parts(card, CPU, torch.float32, silent)


def test_a_folder_of_another_family_is_refused_with_both(tmp_path):
    folder, _ = write("sd1", tmp_path)
    card = ModelCard(id="x", source=f"dir:{folder}", family=Family.SD3)
    with pytest.raises(ModelLoadFailed, match="holds a StableDiffusionPipeline, family 'sd'; the card says 'sd3'"):
        open_parts(card, CPU, torch.float32, silent)


def test_sd2_must_be_told_what_it_predicts(tmp_path):
    folder, file = write("sd2", tmp_path)
    untold = SingleFileParts(file, CPU, torch.float32, silent, configs=folder)
    with pytest.raises(ModelLoadFailed, match="prediction_type: v_prediction"):
        untold.scheduler_config()
    told = SingleFileParts(file, CPU, torch.float32, silent, configs=folder, prediction_type="v_prediction")
    assert told.scheduler_config()["prediction_type"] == "v_prediction"
    state = load_file(file)
    save_file(state, file, metadata={"modelspec.prediction_type": "v"})
    described = SingleFileParts(file, CPU, torch.float32, silent, configs=folder)
    assert described.scheduler_config()["prediction_type"] == "v_prediction"


def test_marker_tensors_decide_the_schedule(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({**original_state("sdxl", modules("sdxl")), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    config = SingleFileParts(file, CPU, torch.float32, silent).scheduler_config()
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    assert config["_class_name"] == "EulerDiscreteScheduler"


def test_a_file_of_another_size_than_its_kind_is_told(tmp_path):
    _, file = write("sd1", tmp_path)
    shipped = SingleFileParts(file, CPU, torch.float32, silent)
    with pytest.raises(ModelLoadFailed, match=r"vae as in sd1 lacks \d+ of its \d+ tensors"):
        shipped.module("vae", kind("sd1", "vae"))
    state = load_file(file)
    save_file({name: tensor for name, tensor in state.items() if "first_stage" not in name}, file)
    with pytest.raises(ModelLoadFailed, match=r"holds no vae; name a source for it in the card \(vae: ...\)"):
        SingleFileParts(file, CPU, torch.float32, silent).module("vae", kind("sd1", "vae"))


def test_half_a_checkpoint_is_no_checkpoint(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(1)}, file)
    with pytest.raises(ModelLoadFailed, match="of a LoRA"):
        SingleFileParts(file, CPU, torch.float32, silent)


def test_a_network_alone_is_not_taken_for_a_checkpoint_of_another_kind(tmp_path):
    folder, file = write("sdxl", tmp_path)
    save_file({name: tensor for name, tensor in load_file(file).items() if "diffusion_model" in name}, file)
    alone = SingleFileParts(file, CPU, torch.float32, silent, configs=folder)
    assert alone.has("text_encoder")
    with pytest.raises(ModelLoadFailed, match="holds no text_encoder; name a source for it in the card"):
        alone.module("text_encoder", kind("sdxl", "text_encoder"))


def test_the_variants_have_configs_in_the_package():
    from pipelines.families.single_file import shipped_configs

    for variant in Variant:
        assert (shipped_configs(variant) / "model_index.json").is_file()
