"""Where control networks come from: folders and single files in every layout give the same network; the rest is refused."""

import json
import shutil
import sys
from pathlib import Path

import msgspec
import original_controls
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.adapters.control.opening import open_control
from pipelines.contract.adapters import ControlCard, ControlKind
from pipelines.contract.errors import AquatintError, ModelLoadFailed, Unsupported
from pipelines.contract.family import Family

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every network there is, with the model it is for: {name: (control, tiny model)}."""
    from tiny import Tiny
    from tiny_controls import controlnet, sd3_controlnet, t2i_adapter, union
    from tiny_sd3 import TinySD3
    from tiny_sdxl import TinyXL

    folder, sd, xl, sd3 = tmp_path_factory.mktemp("controls"), Tiny(), TinyXL(), TinySD3()
    flat = {"channels": [16, 32], "num_res_blocks": 2}
    large = {"use_pos_embed": False, "joint_attention_dim": None, "force_zeros_for_pooled_projection": False}
    return {
        "sd": (controlnet(folder / "sd", sd.unet, Family.SD, seed=1), sd),
        "sdxl": (controlnet(folder / "sdxl", xl.unet, Family.SDXL, seed=2), xl),
        "union": (union(folder / "union", xl.unet, seed=3), xl),
        "sd3": (sd3_controlnet(folder / "sd3", sd3.transformer, seed=4), sd3),
        "sd3-dual": (
            sd3_controlnet(folder / "sd3-dual", sd3.transformer, 5, dual_attention_layers=(1,), qk_norm="rms_norm"),
            sd3,
        ),
        "sd3-large": (sd3_controlnet(folder / "sd3-large", sd3.transformer, 6, **large), sd3),
        "sd3-masked": (sd3_controlnet(folder / "sd3-masked", sd3.transformer, 7, extra_conditioning_channels=1), sd3),
        "full": (t2i_adapter(folder / "full", Family.SD, 8, **flat), sd),
        "light": (
            t2i_adapter(folder / "light", Family.SD, 9, channels=[16, 32], num_res_blocks=2, adapter_type="light_adapter"),
            sd,
        ),
        "xl": (
            t2i_adapter(
                folder / "xl", Family.SDXL, 10, **flat, downscale_factor=16, adapter_type="full_adapter_xl", in_channels=1
            ),
            xl,
        ),
    }


def silent(_part, _done):
    """No progress is wanted."""


def opened(card, tiny):
    network = open_control(card, tiny.family, silent)
    assert network.bytes > 0
    return network


def refused(card, tiny) -> AquatintError:
    with pytest.raises((Unsupported, ModelLoadFailed)) as caught:
        open_control(card, tiny.family, silent)
    assert caught.value.param == "controls"
    return caught.value


def state_of(control):
    return load_file(Path(control.card.source.removeprefix("dir:")) / WEIGHTS)


def filed(control, tensors, path):
    save_file(tensors, path)
    return msgspec.structs.replace(control.card, source=f"file:{path}")


def same(one, other):
    """Two opened networks of the same configuration and with bit-equal weights."""
    mine, theirs = one._module, other._module
    left, right = mine.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert one.bytes == other.bytes
    if hasattr(one, "_embed"):
        assert all(torch.equal(a, b) for a, b in zip(one._embed.parameters(), other._embed.parameters(), strict=True))
    found, wanted = ({k: _plain(v) for k, v in module.config.items() if not k.startswith("_")} for module in (mine, theirs))
    for key in ("sample_size", "transformer_layers_per_block", "out_channels"):
        found.pop(key, None)  # how they are written, or what no forward looks at
        wanted.pop(key, None)
    assert found == wanted


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value


NAMES = ["sd", "sdxl", "union", "sd3", "sd3-dual", "sd3-large", "sd3-masked", "full", "light", "xl"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_by_diffusers_names_needs_no_config(made, name, tmp_path):
    control, tiny = made[name]
    card = filed(control, {key: tensor.clone() for key, tensor in state_of(control).items()}, tmp_path / "x.safetensors")
    same(opened(card, tiny), opened(control.card, tiny))


@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_controlnet_in_the_original_layout(made, name, prefix, tmp_path):
    control, tiny = made[name]
    tensors = original_controls.controlnet(state_of(control), layers=1, prefix=prefix)
    if prefix:
        tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(3)  # the model that it was trained beside
    same(opened(filed(control, tensors, tmp_path / "x.safetensors"), tiny), opened(control.card, tiny))


@pytest.mark.parametrize("name", ["full", "light", "xl"])
def test_a_t2i_adapter_in_the_original_layout(made, name, tmp_path):
    control, tiny = made[name]
    card = filed(control, original_controls.t2i_adapter(state_of(control)), tmp_path / "x.safetensors")
    same(opened(card, tiny), opened(control.card, tiny))


def test_it_takes_on_the_model_s_precision(made, tmp_path):
    control, tiny = made["sd"]
    half = {name: tensor.half() for name, tensor in state_of(control).items()}
    network = opened(filed(control, half, tmp_path / "x.safetensors"), tiny)
    assert {tensor.dtype for tensor in network._module.parameters()} == {torch.float32}
    assert network.bytes == opened(control.card, tiny).bytes


def test_nothing_of_it_stays_in_the_file(made, tmp_path):
    """A file may be written over while its network is in use."""
    control, tiny = made["sd"]
    shutil.copytree(control.card.source.removeprefix("dir:"), tmp_path / "copy")
    network = opened(msgspec.structs.replace(control.card, source=f"dir:{tmp_path / 'copy'}"), tiny)
    before = {name: tensor.clone() for name, tensor in network._module.state_dict().items()}
    weights = tmp_path / "copy" / WEIGHTS
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network._module.state_dict().items())


def test_a_folder_within_a_pipeline_s(made, tmp_path):
    control, tiny = made["full"]
    shutil.copytree(control.card.source.removeprefix("dir:"), tmp_path / "adapter")
    opened(msgspec.structs.replace(control.card, source=f"dir:{tmp_path}"), tiny)


def test_one_for_another_family_is_refused_by_both_names(made):
    error = refused(made["sdxl"][0].card, made["sd"][1])
    assert isinstance(error, Unsupported)
    assert "'sdxl'" in error.message
    assert "'sd'" in error.message


def test_one_for_other_widths_is_refused_by_both_widths(made, tmp_path):
    """As SD 1's for SD 2: one family, prompts of another width."""
    from tiny import Tiny
    from tiny_controls import controlnet

    other = Tiny()
    config = dict(other.unet.config) | {"cross_attention_dim": 48}
    wider = controlnet(tmp_path / "wider", type(other.unet)(**config), Family.SD, seed=1)
    for card in (wider.card, filed(wider, state_of(wider), tmp_path / "wider.safetensors")):
        error = refused(card, made["sd"][1])
        assert isinstance(error, Unsupported)
        assert "48" in error.message
        assert "32" in error.message


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("union", {"kind": ControlKind.CONTROLNET}, "kind: union"),
        ("sdxl", {"kind": ControlKind.UNION}, "kind: controlnet"),
        ("full", {"kind": ControlKind.CONTROLNET}, "kind: t2i_adapter"),
        ("sd", {"kind": ControlKind.T2I_ADAPTER}, "kind: controlnet"),
    ],
)
def test_a_card_that_says_another_kind(made, name, changes, words):
    control, tiny = made[name]
    assert words in refused(msgspec.structs.replace(control.card, **changes), tiny).message


def test_an_sd3_network_under_another_family_s_card(made):
    card = msgspec.structs.replace(made["sd3"][0].card, family=Family.SD)
    assert "for SD3" in refused(card, made["sd"][1]).message


def test_what_is_no_control_network(made, tmp_path):
    _, tiny = made["sd"]
    for tensors, words in (
        ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(2, 2)}, "no control network"),
        ({"lora_controlnet": torch.zeros(1)}, "Control-LoRA"),
        ({"lllite_unet_input_blocks_1_1.up.weight": torch.zeros(1)}, "ControlLLLite"),
        ({"zero_convs.0.0.weight": torch.zeros(16, 16, 1, 1)}, "halves"),
        ({"controlnet_cond_embedding.conv_in.weight": torch.zeros(4, 3, 3, 3)}, "incomplete"),
    ):
        save_file(tensors, tmp_path / "x.safetensors")
        card = ControlCard(name="x", source=f"file:{tmp_path / 'x.safetensors'}", family=Family.SD)
        assert words in refused(card, tiny).message


def test_a_file_that_lacks_some_tensors(made, tmp_path):
    control, tiny = made["sd"]
    tensors = state_of(control)
    del tensors["controlnet_mid_block.weight"]
    error = refused(filed(control, tensors, tmp_path / "x.safetensors"), tiny)
    assert "controlnet_mid_block.weight" in error.message


def test_pickles_are_refused_whatever_they_are_called(made, tmp_path):
    control, tiny = made["sd"]
    torch.save(state_of(control), tmp_path / "x.safetensors")
    card = msgspec.structs.replace(control.card, source=f"file:{tmp_path / 'x.safetensors'}")
    assert "pickle" in refused(card, tiny).message
    folder = tmp_path / "folder"
    shutil.copytree(control.card.source.removeprefix("dir:"), folder)
    (folder / WEIGHTS).unlink()
    torch.save(state_of(control), folder / "diffusion_pytorch_model.bin")
    assert "pickle" in refused(msgspec.structs.replace(control.card, source=f"dir:{folder}"), tiny).message


def test_what_is_not_there(made, tmp_path):
    control, tiny = made["sd"]
    for source, words in (
        (f"file:{tmp_path / 'none.safetensors'}", "no file"),
        (f"dir:{tmp_path / 'none'}", "no folder"),
        (f"dir:{tmp_path}", "no config.json"),
        ("bundled:none", "controlnets/none"),
        ("hf:none/none", "not in the cache"),
        ("ftp:x", "not understood"),
    ):
        assert words in refused(msgspec.structs.replace(control.card, source=source), tiny).message
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert "no weights" in refused(msgspec.structs.replace(control.card, source=f"dir:{tmp_path}"), tiny).message


def test_progress_is_told(made):
    control, tiny = made["sd"]
    told = []
    open_control(control.card, tiny.family, lambda part, done: told.append((part, done)))
    assert {part for part, _ in told} == {"sd"}
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1][1] == pytest.approx(1.0)
