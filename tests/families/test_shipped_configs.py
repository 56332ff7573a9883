"""The configs and the tokenizer that ship with the project are the public checkpoints'."""

import pytest
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.families.assembly import blank
from pipelines.families.clip_tokenizer import clip_tokenizer
from pipelines.families.single_file import shipped_configs

# Parameters of the published models.
COUNTS = [
    ("sd1", "unet", 859_520_964),
    ("sd1", "vae", 83_653_863),
    ("sd1", "text_encoder", 123_060_480),
    ("sd2", "unet", 865_910_724),
    ("sd2", "text_encoder", 340_387_840),
    ("sdxl", "unet", 2_567_463_684),
    ("sdxl", "text_encoder_2", 694_659_840),
    ("sd3-medium", "text_encoder_3", 4_762_310_656),
]


def kind(variant, part):
    from checkpoints import KINDS

    if part == "text_encoder":
        return CLIPTextModelWithProjection if variant.startswith("sd3") else CLIPTextModel
    return KINDS[part]


@pytest.mark.parametrize(("variant", "part", "count"), COUNTS)
def test_parameters_are_those_of_the_published_models(variant, part, count):
    module = blank(kind(variant, part), shipped_configs(variant) / part)
    tied = getattr(module, "_tied_weights_keys", None) or ()
    assert sum(p.numel() for name, p in module.named_parameters() if name not in tied) == count


@pytest.mark.parametrize(("variant", "pad"), [("sd1", 49407), ("sd2", 0)])
def test_clip_s_tokens_are_the_published_ones(variant, pad):
    tokenizer = clip_tokenizer(CLIPTokenizer, shipped_configs(variant) / "tokenizer" / "tokenizer_config.json")
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, pad)
    found = tokenizer(["a photo of a cat", "A  Photo\nof a Cat"], padding="max_length").input_ids
    assert found[0][:8] == [49406, 320, 1125, 539, 320, 2368, 49407, pad]
    assert found[0] == found[1]
    assert tokenizer.decode(found[0], skip_special_tokens=True).startswith("a photo of a cat")
