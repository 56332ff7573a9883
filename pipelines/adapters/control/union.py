"""ControlNet-Union for SDXL: one network for several kinds of control images, told which kinds it gets.

The control images of one row are read in one evaluation, as diffusers' ControlNet-Union pipelines do: a transformer over their
means says how much of each counts. With one image its weight multiplies the residuals, with several each weight its own image.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pipelines.adapters.control.controlnet import added, check_encoder, embedded
from pipelines.adapters.control.network import Asked, Said
from pipelines.adapters.control.part import ControlPart
from pipelines.adapters.control.scaling import scaled
from pipelines.contract.errors import InvalidRequest
from pipelines.families.family import Family
from pipelines.families.residuals import Residuals
from pipelines.families.weights import ModuleWeights


class UnionControlNet:
    """A loaded ``ControlNetUnionModel``, cut in two like a `ControlNet`."""

    __slots__ = ("_embed", "_module", "_name", "bytes", "fused", "positive_only")

    def __init__(self, name: str, module: Any) -> None:
        """Take a module that is on its device, in evaluation mode; it is changed."""
        self.bytes = ModuleWeights(module).bytes
        self.fused = True
        self.positive_only = bool(module.config.global_pool_conditions)
        self._name, self._module = name, module
        self._embed = module.controlnet_cond_embedding
        module.controlnet_cond_embedding = torch.nn.Identity()

    def check(self, family: Family) -> None:
        """As `ControlNetwork` says."""
        check_encoder(self._name, self._module.config, self._embed.conv_in.in_channels, family)

    def hint(self, picture: Image.Image, family: Family, mode: int) -> tuple[torch.Tensor, ...]:
        """Its features, [1, width of the first block, h, w]."""
        known: int = self._module.config.num_control_type
        if not 0 <= mode < known:
            msg = f"Control network {self._name!r} has modes 0 to {known - 1}; its entry in models.yaml says {mode}."
            raise InvalidRequest(msg, param="controls")
        return (embedded(self._embed, picture, family),)

    def speak(self, family: Family, asked: Asked) -> Sequence[Said]:  # noqa: ARG002
        """One forward over all rows with one control image, and one for each other number of images and their weights."""
        alike: dict[tuple[float, ...], list[int]] = {}
        for index, part in enumerate(asked.parts):
            weights = tuple(hint.weight for hint in part.hints)
            alike.setdefault(weights if len(weights) > 1 else (1.0,), []).append(index)
        return [self._forward(asked, chosen, weights) for weights, chosen in alike.items()]

    def _forward(self, asked: Asked, chosen: list[int], weights: tuple[float, ...]) -> Said:
        """``weights`` are those of the images within the network, the same for all rows."""
        parts = [asked.parts[index] for index in chosen]
        which = torch.tensor(chosen).to(asked.latents.device)
        conditioning = asked.conditioning.picked(which)
        modes = torch.tensor([[hint.mode for hint in part.hints] for part in parts]).to(asked.latents.device)
        self._keep_apart(asked.latents.new_full((len(parts), len(parts)), -torch.inf).fill_diagonal_(0.0))
        kinds = asked.latents.new_zeros(len(parts), self._module.config.num_control_type).scatter_(1, modes, 1)
        down, mid = self._module(
            asked.latents[which],
            asked.timesteps[which],
            encoder_hidden_states=conditioning.tokens,
            controlnet_cond=[_hints(parts, index) for index in range(len(weights))],
            control_type=kinds,
            control_type_idx=list(modes.unbind(dim=1)),
            conditioning_scale=list(weights),
            added_cond_kwargs=added(conditioning),
            return_dict=False,
        )
        own = None if len(weights) == 1 else 1.0
        weighed = scaled((*down, mid), [part.scales(len(down) + 1, own) for part in parts])
        return Said([asked.rows[index] for index in chosen], Residuals(down=weighed[:-1], mid=weighed[-1]))

    def _keep_apart(self, mask: torch.Tensor) -> None:
        """Let no evaluation attend to another's.

        The transformer attends along the batch, as it did in training. An image made alone does not notice, for its evaluations
        look the same from there; in company images would bleed into each other.
        """
        for layer in self._module.transformer_layes:
            layer.attn_mask = mask


def _hints(parts: Sequence[ControlPart], index: int) -> torch.Tensor:
    return torch.cat([part.hints[index].tensors[0] for part in parts])
