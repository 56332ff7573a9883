"""Tiny random IP-Adapters under the key names of real ones, a tiny image encoder, and diffusers' pipelines with them loaded."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.control import ReferenceUse
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest
from pipelines.families.pictures import to_image

STATES, EMBEDDING, SIDE = 32, 24, 32
QUERIES, INNER, HEAD = 5, 16, 64

VARIANTS = ("plain", "plus", "full")


def save_encoder(folder: Path, *, seed: int = 0, embedding: int = EMBEDDING) -> None:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=STATES,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        image_size=SIDE,
        patch_size=8,
        projection_dim=embedding,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)


def tensors(unet: Any, variant: str, *, seed: int) -> dict[str, torch.Tensor]:
    """An IP-Adapter for ``unet``, named as its authors name it."""
    made = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def random(*shape: int, like: float | None = None) -> torch.Tensor:
        return torch.randn(shape, generator=made) * (shape[-1] ** -0.5 if like is None else like)

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + random(size, like=0.1), f"{name}.bias": random(size, like=0.1)}

    if variant == "plain":
        image = {"proj.weight": random(4 * width, EMBEDDING), "proj.bias": random(4 * width, like=0.5), **norm("norm", width)}
    elif variant == "full":
        image = {"proj.0.weight": random(STATES, STATES), "proj.0.bias": random(STATES, like=0.5)}
        image |= {"proj.2.weight": random(width, STATES), "proj.2.bias": random(width, like=0.5), **norm("proj.3", width)}
    else:
        image = {"latents": random(1, QUERIES, INNER), **norm("norm_out", width)}
        image |= {"proj_in.weight": random(INNER, STATES), "proj_in.bias": random(INNER, like=0.5)}
        image |= {"proj_out.weight": random(width, INNER), "proj_out.bias": random(width, like=0.5)}
        for layer in (f"layers.{index}" for index in range(4)):
            image |= {**norm(f"{layer}.0.norm1", INNER), **norm(f"{layer}.0.norm2", INNER), **norm(f"{layer}.1.0", INNER)}
            image |= {f"{layer}.0.to_q.weight": random(HEAD, INNER), f"{layer}.0.to_kv.weight": random(2 * HEAD, INNER)}
            image |= {f"{layer}.0.to_out.weight": random(INNER, HEAD)}
            image |= {f"{layer}.1.1.weight": random(4 * INNER, INNER), f"{layer}.1.3.weight": random(INNER, 4 * INNER)}
    attended = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    layers = {}
    for index, name in enumerate(attended):
        out = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        layers[f"{2 * index + 1}.to_k_ip.weight"] = random(out, width)
        layers[f"{2 * index + 1}.to_v_ip.weight"] = random(out, width, like=0.6)
    return {f"image_proj.{key}": value for key, value in image.items()} | {
        f"ip_adapter.{key}": value for key, value in layers.items()
    }


class Adapters:
    """A folder with an image encoder and one file of each variant, for the network of ``tiny``."""

    def __init__(self, root: Path, tiny: Any, family: Family, *, seed: int = 20) -> None:
        self.root, self.tiny, self.family = root, tiny, family
        save_encoder(root / "image_encoder")
        for index, variant in enumerate(VARIANTS):
            save_file(tensors(tiny.unet, variant, seed=seed + index), root / f"{variant}.safetensors")

    def card(self, variant: str, **changes: Any) -> ReferenceCard:
        fields = {
            "name": variant,
            "source": f"file:{self.root}/{variant}.safetensors",
            "family": self.family,
            "image_encoder": f"dir:{self.root}/image_encoder",
        }
        return ReferenceCard(**(fields | changes))

    def by_diffusers(self, asked: ImageRequest, tiny: Any | None = None) -> "Looking":
        """What stands in for ``tiny`` where diffusers is asked for ``asked``, references and all."""
        return Looking(tiny or self.tiny, self.root, asked.references)


class Looking:
    """A tiny checkpoint whose pipelines have IP-Adapters loaded, into a copy of its UNet."""

    def __init__(self, tiny: Any, root: Path, uses: tuple[ReferenceUse, ...]) -> None:
        self._tiny, self._root, self._uses = tiny, root, uses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tiny, name)

    def pipeline(self, kind: str) -> Any:
        pipeline = self._tiny.pipeline(kind)
        if not self._uses:
            return pipeline
        pipeline.register_modules(unet=copy.deepcopy(self._tiny.unet))
        files = [Path(use.card.source.removeprefix("file:")).name for use in self._uses]
        pipeline.load_ip_adapter(str(self._root), subfolder="", weight_name=files)
        pipeline.image_encoder.to(self._tiny.device)
        return _Calling(pipeline, self._uses)


class _Calling:
    """A pipeline that is called with its pictures; their weights change when their time comes."""

    def __init__(self, pipeline: Any, uses: tuple[ReferenceUse, ...]) -> None:
        self.__dict__.update(pipeline=pipeline, uses=uses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.pipeline, name, value)

    def __call__(self, **asked: Any) -> Any:
        pictures = [[to_image(picture) for picture in use.pictures] for use in self.uses]
        whole = all((use.start, use.end) == (0.0, 1.0) for use in self.uses)
        self._weigh(0, None if whole else asked["num_inference_steps"])
        timed = {} if whole else {"callback_on_step_end": self._next}
        return self.pipeline(**asked, **timed, ip_adapter_image=pictures)

    def _next(self, _pipeline: Any, index: int, _time: Any, held: dict[str, Any]) -> dict[str, Any]:
        self._weigh(index + 1, self.pipeline.num_timesteps)
        return held

    def _weigh(self, index: int, total: int | None) -> None:
        speaks = [total is None or (index / total >= use.start and (index + 1) / total <= use.end) for use in self.uses]
        self.pipeline.set_ip_adapter_scale([use.weight if now else 0.0 for use, now in zip(self.uses, speaks, strict=True)])
