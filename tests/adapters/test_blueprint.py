"""Full-size control networks, without memory: every layout of each gives back the names and shapes that diffusers has."""

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import original_controls
import pytest

from pipelines.adapters.control.blueprint import blueprint
from pipelines.adapters.control.layout import Layout, layout
from pipelines.adapters.control.original import renamed
from pipelines.families.assembly import unfilled
from pipelines.families.single_file import shipped_configs

_X, _D = "CrossAttnDownBlock2D", "DownBlock2D"
COPIED = (
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention", "block_out_channels",
    "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps",
    "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads",
    "use_linear_projection", "class_embed_type", "addition_embed_type", "addition_time_embed_dim", "upcast_attention",
    "resnet_time_scale_shift", "projection_class_embeddings_input_dim",
)  # fmt: skip


@cache
def model_config(variant: str) -> dict[str, Any]:
    kind, part = (
        (diffusers.SD3Transformer2DModel, "transformer")
        if variant.startswith("sd3")
        else (diffusers.UNet2DConditionModel, "unet")
    )
    config = kind.load_config(Path(shipped_configs(variant)) / part, local_files_only=True)
    # Tables of positions are computed even where nothing has memory: a small one says as much.
    small = {"pos_embed_max_size": 12, "sample_size": 12} if part == "transformer" else {}
    return dict(unfilled(kind, config | small).config)


def encoder(variant: str, **changes: Any) -> dict[str, Any]:
    config = model_config(variant)
    return {name: config[name] for name in COPIED if name in config} | changes


def rebuilt(kind: Any, tensors: dict[str, Any], variant: str) -> tuple[Any, Layout]:
    """The module that the tensors alone, and the model, lead to."""
    found = layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "x")
    named = renamed(dict(tensors), found)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    module = unfilled(kind, blueprint(shapes, found, model_config(variant)))
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == shapes
    return module, found


def same_config(module: Any, wanted: Any, *but: str) -> None:
    for key, value in wanted.config.items():
        if not key.startswith("_") and key not in ("sample_size", "out_channels", *but):
            found = module.config[key]
            found, told = (list(each) if isinstance(each, (list, tuple)) else each for each in (found, value))
            assert found == told or {type(found), type(told)} == {int, list}, key


@pytest.mark.parametrize(
    ("variant", "prefix"), [("sd1", None), ("sd1", "control_model."), ("sd2", ""), ("sdxl", None), ("sdxl", "")]
)
def test_controlnets(variant, prefix):
    wanted = unfilled(diffusers.ControlNetModel, encoder(variant))
    tensors = wanted.state_dict()
    if prefix is not None:
        tensors = original_controls.controlnet(tensors, layers=2, prefix=prefix)
    module, found = rebuilt(diffusers.ControlNetModel, tensors, variant)
    assert found is Layout.CONTROLNET
    same_config(module, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"down_block_types": (_D, _X, _X), "transformer_layers_per_block": [0, 0, 1]},
        {"down_block_types": (_D, _D, _D), "transformer_layers_per_block": 1, "mid_block_type": "UNetMidBlock2D"},
    ],
    ids=["mid", "small"],
)
def test_smaller_controlnets_for_sdxl(changes):
    wanted = unfilled(diffusers.ControlNetModel, encoder("sdxl", **changes))
    module, _ = rebuilt(diffusers.ControlNetModel, wanted.state_dict(), "sdxl")
    same_config(module, wanted, "transformer_layers_per_block", "use_linear_projection")


def test_unions():
    config = encoder("sdxl", num_control_type=8)
    config.pop("mid_block_scale_factor")
    wanted = unfilled(diffusers.ControlNetUnionModel, config)
    module, found = rebuilt(diffusers.ControlNetUnionModel, wanted.state_dict(), "sdxl")
    assert found is Layout.UNION
    same_config(module, wanted)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("sd3-medium", {"num_layers": 6}),
        ("sd3-medium", {"num_layers": 23, "extra_conditioning_channels": 1}),
        ("sd3.5-medium", {"num_layers": 6, "dual_attention_layers": (0, 1, 2, 3, 4, 5)}),
        ("sd3.5-large", {"num_layers": 12}),
        (
            "sd3.5-large",
            {
                "num_layers": 19,
                "use_pos_embed": False,
                "joint_attention_dim": None,
                "qk_norm": None,
                "force_zeros_for_pooled_projection": False,
            },
        ),
    ],
)
def test_controlnets_for_sd3(variant, changes):
    config = model_config(variant)
    names = (
        "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
        "caption_projection_dim", "pooled_projection_dim", "pos_embed_max_size", "sample_size", "qk_norm",
    )  # fmt: skip
    wanted = unfilled(diffusers.SD3ControlNetModel, {name: config[name] for name in names} | changes)
    module, found = rebuilt(diffusers.SD3ControlNetModel, wanted.state_dict(), variant)
    assert found is Layout.SD3
    same_config(module, wanted)


@pytest.mark.parametrize("original", [False, True], ids=["diffusers", "original"])
@pytest.mark.parametrize(
    "config",
    [
        {"channels": [320, 640, 1280, 1280]},
        {"channels": [320, 640, 1280, 1280], "in_channels": 1},
        {"channels": [320, 640, 1280], "adapter_type": "light_adapter", "num_res_blocks": 4},
        {"channels": [320, 640, 1280, 1280], "adapter_type": "full_adapter_xl", "downscale_factor": 16},
    ],
    ids=["full", "grey", "light", "xl"],
)
def test_t2i_adapters(config, original):
    wanted = unfilled(diffusers.T2IAdapter, config)
    tensors = wanted.state_dict()
    module, found = rebuilt(diffusers.T2IAdapter, original_controls.t2i_adapter(tensors) if original else tensors, "sd1")
    assert found is Layout.T2I_ADAPTER
    same_config(module, wanted)
