"""What a card asks of a loaded network beside its weights: who computes attention, and in how few bits weights are kept."""

from importlib.util import find_spec
from typing import Any

import torch

from pipelines.contract.catalog import Attention, Quantize
from pipelines.contract.errors import ModelLoadFailed


def attend(network: Any, attention: Attention, device: torch.device) -> None:
    """Let ``attention`` compute the network's attention; torch's own is there already.

    Raises `ModelLoadFailed` when xformers is not installed or does not run on ``device``.
    """
    if attention is not Attention.XFORMERS:
        return
    if find_spec("xformers") is None:
        msg = "attention: xformers needs the package xformers, which is not installed (pip install 'aquatint[cuda]')."
        raise ModelLoadFailed(msg)
    if device.type != "cuda":
        msg = f"attention: xformers runs on CUDA devices only, not on {device}; leave it out for torch's own attention."
        raise ModelLoadFailed(msg)
    try:
        network.enable_xformers_memory_efficient_attention()
    except Exception as error:
        msg = f"attention: xformers is installed but does not run on {device}: {error}"
        raise ModelLoadFailed(msg) from error


def quantise(network: Any, kind: Quantize) -> None:
    """Keep the weights of the network's linear layers in eight bits, one scale per output; sums are still done in its dtype.

    Raises `ModelLoadFailed` when torchao is not installed or refuses.
    """
    if find_spec("torchao") is None:
        msg = f"quantize: {kind.value} needs the package torchao, which is not installed (pip install 'aquatint[quantize]')."
        raise ModelLoadFailed(msg)
    # Optional, and slow to import.
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    config = {Quantize.INT8: Int8WeightOnlyConfig, Quantize.FP8: Float8WeightOnlyConfig}[kind]
    try:
        # Without its settings for the compiler: those are process-wide, and other models share the process.
        quantize_(network, config(set_inductor_config=False))
    except Exception as error:
        msg = f"quantize: {kind.value} does not work for this network: {error}"
        raise ModelLoadFailed(msg) from error
