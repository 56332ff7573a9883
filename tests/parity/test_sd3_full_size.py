"""SD3 and SD3.5 at their real sizes, with random weights: they fit the memory a 24 GB machine has to give, and run."""

import resource

import diffusers
import pytest
import torch
from driving import run
from test_alone import relative
from test_sd3 import request
from tiny import TOKENIZER
from tiny_sd3 import VAE
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.contract.request import SkipLayers
from pipelines.families.sd3 import StableDiffusion3
from pipelines.sampling.noise import Noise

GIB = 1 << 30
TWO_BILLION = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
TRANSFORMERS = {
    "sd3-medium": (TWO_BILLION | {"pos_embed_max_size": 192}, 2.0e9, 2.1e9),
    "sd3.5-medium": (
        TWO_BILLION | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        2.2e9,
        2.6e9,
    ),
    "sd3.5-large": (
        {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
        8.0e9,
        8.2e9,
    ),
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


def filled(kind, config):
    """A bfloat16 module of ``config`` with small random weights, never twice in memory."""
    with torch.device("meta"):
        module = kind.from_config(config).to(torch.bfloat16)
    module.to_empty(device="cpu")
    block = (torch.randn(1 << 20) * 0.02).to(torch.bfloat16)
    for tensor in (*module.parameters(), *module.buffers()):
        for part in tensor.detach().view(-1).split(len(block)):
            part.copy_(block[: len(part)])
    return module.requires_grad_(False).eval()


def clip(config):
    module = CLIPTextModelWithProjection._from_config(CLIPTextConfig(vocab_size=49408, **config), dtype=torch.bfloat16)
    return module.requires_grad_(False).eval()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_the_real_size_runs_in_20_gib_without_t5(name):
    torch.manual_seed(0)
    config, low, high = TRANSFORMERS[name]
    shape = {"sample_size": 128, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
    transformer = filled(diffusers.SD3Transformer2DModel, shape | config)
    assert low < sum(parameter.numel() for parameter in transformer.parameters()) < high
    vae = filled(
        diffusers.AutoencoderKL, VAE | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32}
    )
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    family = StableDiffusion3(
        transformer, vae, (clip(CLIP_L), clip(CLIP_G)), (tokenizer, tokenizer), {"num_train_timesteps": 1000, "shift": 3.0}
    )
    # Two steps; the skipped layers' evaluation is due at the second.
    skip = SkipLayers((7, 8, 9), 2.8, 0.0, 1.0) if name == "sd3.5-medium" else None
    asked = request("txt2img", "euler", guided=skip is not None, steps=2, skip=skip, width=128, height=128)
    result = run({"tiny": family}, [asked])
    assert not result.failed
    latents = result.latents[asked.id, 0]
    drawn = Noise(asked.seeds[0], family.device, family.dtype).draw(latents.shape)
    assert torch.isfinite(latents).all()
    assert relative(latents, drawn) > 0.01
    assert result.pixels[asked.id, 0].shape == (128, 128, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{name}: peak {peak / GIB:.1f} GiB")
    assert peak < 20 * GIB
