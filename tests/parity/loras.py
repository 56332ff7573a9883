"""LoRA files as trainers write them, with random weights that show; and diffusers wearing them."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from pipelines.contract.adapters import LoraCard
from pipelines.contract.control import LoraUse
from pipelines.contract.family import Family

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2", "add_q_proj", "add_k_proj", "to_add_out")
CONVOLUTIONS = (".conv1", ".conv2", ".conv", ".conv_shortcut", "conv_in", "conv_out", ".proj_in", ".proj_out", "time_emb_proj")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def changes(
    module: Any,
    ends: Iterable[str],
    *,
    seed: int,
    rank: int | Callable[[str], int] = 4,
    size: float = 0.5,
    dora: bool = False,
) -> dict[str, dict[str, torch.Tensor]]:
    """A and B (and DoRA's m) of every layer of ``module`` whose name has one of ``ends``, by its path."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for path, layer in module.named_modules():
        if not isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) or not path.endswith(tuple(ends)):
            continue
        own = rank(path) if callable(rank) else rank
        outputs, inputs, *kernel = layer.weight.shape
        a = torch.randn(own, inputs, *kernel, generator=generator) * size / layer.weight[0].numel() ** 0.5
        b = torch.randn(outputs, own, *[1 for _ in kernel], generator=generator) * size / own**0.5
        found[path] = {"A": a, "B": b}
        if dora:
            length = layer.weight.detach().cpu().flatten(1).norm(dim=1)
            found[path]["m"] = length * (1 + torch.rand(outputs, generator=generator))
    assert found
    return found


def peft_layout(parts: Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """``unet.down_blocks...lora_A.weight``, ``text_encoder.text_model...``."""
    tensors = {}
    for part, layers in parts.items():
        for path, layer in layers.items():
            name = f"{part}.{path}"
            tensors[f"{name}.lora_A.weight"] = layer["A"]
            tensors[f"{name}.lora_B.weight"] = layer["B"]
            if "m" in layer:
                length = layer["m"]
                tensors[f"{name}.lora_magnitude_vector"] = length if layer["A"].ndim == 2 else length.view(1, -1, 1, 1)
    return tensors


def kohya_layout(
    parts: Mapping[str, Mapping[str, Mapping[str, torch.Tensor]]], alpha: float | None = None
) -> dict[str, torch.Tensor]:
    """``lora_unet_down_blocks_...lora_down.weight`` with alphas; ``parts`` by kohya's prefixes (``unet``, ``te``, ``te1``...)."""
    tensors = {}
    for part, layers in parts.items():
        for path, layer in layers.items():
            level = "" if part == "unet" or path.startswith("text_model.") else "text_model."
            name = f"lora_{part}_{(level + path).replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = layer["A"]
            tensors[f"{name}.lora_up.weight"] = layer["B"]
            if alpha is not None:
                tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def save(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {"format": "pt"}))
    return path


def use(path: Path, family: str, weight: float = 1.0, text: float | None = None) -> LoraUse:
    card = LoraCard(name=path.stem, source=f"file:{path}", family=Family(family))
    return LoraUse(card, weight, weight if text is None else text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Both libraries report at length on files that lack a part."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


@contextmanager
def wearing(tiny: Any, uses: Iterable[LoraUse]) -> Iterator[None]:
    """Inside the block diffusers' pipelines over ``tiny``'s modules have ``uses`` loaded and set."""
    taken = list(uses)
    if not taken:
        yield
        return
    # As transformers 5 has it: the tests' own bridge to diffusers' older view of it would mislead the loader.
    bridge = tiny.text_encoder.__dict__.pop("text_model", None) if tiny.text_encoder is not None else None
    pipeline = tiny.pipeline("txt2img")
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            for index, each in enumerate(taken):
                path = Path(each.card.source.removeprefix("file:"))
                pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=f"a{index}")
            weights = [
                {name: each.text_weight if "text" in name else each.weight for name in pipeline._lora_loadable_modules}
                for each in taken
            ]
            pipeline.set_adapters([f"a{index}" for index in range(len(taken))], weights)
        yield
    finally:
        pipeline.unload_lora_weights()
        if bridge is not None:
            tiny.text_encoder.__dict__["text_model"] = bridge
