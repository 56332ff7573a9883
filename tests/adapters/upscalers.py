"""Tiny random upscalers of real architectures, as files."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from pipelines.contract.adapters import UpscalerCard


def compact(path: Path, *, scale: int = 2, convolutions: int = 2, channels: int = 3, seed: int = 0) -> UpscalerCard:
    """A Real-ESRGAN Compact whose receptive field reaches ``convolutions`` + 2 pixels to each side."""
    torch.manual_seed(seed)
    network = Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=convolutions, upscale=scale)
    return written(path, network)


def esrgan(path: Path, *, scale: int = 4, seed: int = 0) -> UpscalerCard:
    torch.manual_seed(seed)
    return written(path, ESRGAN(scale=scale, num_filters=16, num_blocks=2))


def written(path: Path, network: torch.nn.Module) -> UpscalerCard:
    save_file(network.state_dict(), path)
    return UpscalerCard(path.stem, f"file:{path}")
