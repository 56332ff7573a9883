"""Each public checkpoint is known by the names and shapes that it has, no weights needed."""

import pytest

from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.detection import Variant, detect
from pipelines.families.weights_file import Contents, Tensor

NET = "model.diffusion_model."
# Of each published file: the tensors that tell it from the others, as its header has them.
SD1 = {
    f"{NET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{NET}input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
    f"{NET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
SD2 = {
    f"{NET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{NET}input_blocks.1.1.proj_in.weight": (320, 320),
    f"{NET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "cond_stage_model.model.token_embedding.weight": (49408, 1024),
}
SDXL = {
    f"{NET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{NET}input_blocks.4.1.proj_in.weight": (640, 640),
    f"{NET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    f"{NET}label_emb.0.0.weight": (1280, 2816),
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}
REFINER = {
    f"{NET}input_blocks.0.0.weight": (384, 4, 3, 3),
    f"{NET}input_blocks.4.1.proj_in.weight": (768, 768),
    f"{NET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
    f"{NET}label_emb.0.0.weight": (1536, 2560),
    "conditioner.embedders.0.model.ln_final.weight": (1280,),
}
SD3 = {f"{NET}joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536), f"{NET}x_embedder.proj.weight": (1536, 16, 2, 2)}
MEDIUM = SD3 | {
    f"{NET}joint_blocks.0.x_block.attn.ln_q.weight": (64,),
    f"{NET}joint_blocks.0.x_block.attn2.qkv.weight": (4608, 1536),
}
LARGE = {
    f"{NET}joint_blocks.0.context_block.attn.qkv.weight": (7296, 2432),
    f"{NET}joint_blocks.0.x_block.attn.ln_q.weight": (64,),
}
FIRST = f"{NET}input_blocks.0.0.weight"


def contents(shapes, **metadata):
    return Contents({name: Tensor("F16", shape) for name, shape in shapes.items()}, metadata)


@pytest.mark.parametrize(
    ("shapes", "variant", "family", "prediction"),
    [
        (SD1, Variant.SD1, Family.SD, "epsilon"),
        (SD2, Variant.SD2, Family.SD, None),
        (SDXL, Variant.SDXL, Family.SDXL, "epsilon"),
        (REFINER, Variant.SDXL_REFINER, Family.SDXL, "epsilon"),
        (SD3, Variant.SD3_MEDIUM, Family.SD3, "flow_prediction"),
        (MEDIUM, Variant.SD35_MEDIUM, Family.SD3, "flow_prediction"),
        (LARGE, Variant.SD35_LARGE, Family.SD3, "flow_prediction"),
    ],
    ids=lambda value: str(value) if isinstance(value, Variant) else "",
)
def test_the_kind_family_and_prediction(shapes, variant, family, prediction):
    found = detect(contents(shapes), "x")
    assert (found.variant, found.family, found.prediction_type) == (variant, family, prediction)
    assert (found.inpainting, found.zero_snr) == (False, False)
    # ComfyUI and others also write the network alone, without what it stands under.
    bare = detect(contents({name.removeprefix(NET): shape for name, shape in shapes.items() if name.startswith(NET)}), "x")
    assert (bare.variant, bare.prefix) == (variant, "")


@pytest.mark.parametrize("shapes", [SD1, SD2, SDXL])
def test_inpainting_networks_take_nine_channels(shapes):
    found = detect(contents(shapes | {FIRST: (320, 9, 3, 3)}), "x")
    assert found.inpainting
    assert found.prediction_type == "epsilon"


@pytest.mark.parametrize("channels", [5, 7, 8])
def test_other_conditionings_are_refused(channels):
    with pytest.raises(ModelLoadFailed, match=f"{channels} input channels is neither"):
        detect(contents(SD2 | {FIRST: (320, channels, 3, 3)}), "x")


def test_what_tells_the_prediction():
    assert detect(contents(SD2, **{"modelspec.prediction_type": "v"}), "x").prediction_type == "v_prediction"
    assert detect(contents(SD2, **{"modelspec.prediction_type": "epsilon"}), "x").prediction_type == "epsilon"
    marked = detect(contents(SDXL | {"v_pred": (0,), "ztsnr": (0,)}, **{"modelspec.prediction_type": "epsilon"}), "x")
    assert (marked.prediction_type, marked.marked, marked.zero_snr) == ("v_prediction", True, True)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SDXL | {"edm_mean": (4,)}, "EDM schedule"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "diffusers part or of a LoRA"),
        ({"lora_unet_x.alpha": ()}, "diffusers part or of a LoRA"),
        ({"double_blocks.0.img_attn.qkv.weight": (1, 1)}, "it holds double_blocks"),
        ({}, "it holds no tensors"),
    ],
)
def test_anything_else_is_refused_with_what_it_is(shapes, message):
    with pytest.raises(ModelLoadFailed, match=message):
        detect(contents(shapes), "x")
