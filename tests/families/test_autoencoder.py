"""The VAE in half precision and at large sizes."""

import copy
import logging

import diffusers
import pytest
import torch

from pipelines.contract.errors import EngineFailure
from pipelines.families.autoencoder import TILE_ABOVE, Autoencoder

KINDS = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def vae(dtype=torch.float32, gain=1.0, **config):
    torch.manual_seed(5)
    module = diffusers.AutoencoderKL(**KINDS, **config).eval()
    with torch.no_grad():
        # Behind the last normalisation, so that nothing takes it out again; half precision ends at 65504.
        module.decoder.conv_out.weight.mul_(gain)
    return module.to(dtype).to(memory_format=torch.channels_last)


def latents(dtype=torch.float32, side=2):
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.inference_mode()
def test_a_vae_that_asks_for_float32_runs_in_it():
    module = Autoencoder(vae(torch.float16, force_upcast=True))
    assert module.module.dtype is torch.float32
    assert module.decode(latents(torch.float16)).shape == (1, 16, 16, 3)
    assert module.moments(torch.zeros(1, 3, 16, 16))[0].mean.dtype is torch.float32


@pytest.mark.parametrize(
    ("dtype", "config"),
    [
        (torch.float16, {"force_upcast": False}),
        (torch.float16, {}),
        (torch.bfloat16, {"force_upcast": True}),
    ],
    ids=["the fp16 fix", "SD 1 says nothing", "bfloat16 has float32's range"],
)
def test_others_stay_as_they_are(dtype, config):
    assert Autoencoder(vae(dtype, **config)).module.dtype is dtype


def test_a_picture_that_overflows_is_made_again_in_float32(caplog):
    module = vae(torch.float16, gain=3e5, force_upcast=False)
    precise = Autoencoder(copy.deepcopy(module).float())
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    half = Autoencoder(module)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        assert not torch.isfinite(module.decode(latents(torch.float16)).sample).all(), "it does not overflow"
        pixels = half.decode(latents())
        assert torch.equal(pixels, precise.decode(latents()))
    assert pixels.float().std() > 0
    assert half.overflows == 1
    assert "overflowed" in caplog.text
    # The weights are back, to the bit and in their memory format.
    assert module.dtype is torch.float16
    assert all(torch.equal(tensor, own[name]) for name, tensor in module.state_dict().items())
    assert module.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.is_inference() for parameter in module.parameters())


@torch.inference_mode()
def test_what_is_not_finite_in_float32_is_an_error_not_a_black_picture():
    broken = Autoencoder(vae())
    with pytest.raises(EngineFailure, match="no finite numbers while drawing a 16x16"):
        broken.decode(latents() * float("nan"))
    with pytest.raises(EngineFailure, match="no finite numbers while reading a 16x24"):
        broken.moments(torch.full((1, 3, 24, 16), float("inf")))


@torch.inference_mode()
def test_pictures_are_whole_up_to_the_threshold_and_tiled_above():
    module = vae(sample_size=32)
    whole = Autoencoder(module)
    tiled = Autoencoder(copy.deepcopy(module), tile_above=576 * 576)
    assert (tiled.module.tile_sample_min_size, tiled.module.tile_latent_min_size) == (512, 64)
    small, large = latents(side=72), latents(side=76)
    assert torch.equal(whole.decode(small), tiled.decode(small))
    module.enable_tiling()
    wanted = module.decode(large / module.config.scaling_factor, return_dict=False)[0]
    module.disable_tiling()
    wanted = ((wanted / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found = tiled.decode(large)
    assert torch.equal(found, wanted), "not as diffusers tiles"
    assert not torch.equal(found, whole.decode(large)), "nothing was tiled"
    assert not tiled.module.use_tiling
    pixels = torch.zeros(1, 3, 608, 608)
    assert tiled.moments(pixels)[0].mean.shape == whole.moments(pixels)[0].mean.shape == (1, 4, 76, 76)


def test_a_default_card_never_tiles():
    from pipelines.contract.catalog import Limits

    assert Limits().max_pixels <= TILE_ABOVE
