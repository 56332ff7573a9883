"""torch.compile for a network's repeated blocks, and the first forwards that pay for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.contract.catalog import Compile, ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.families.conditioning import stack
from pipelines.families.family import Family, Prompt
from pipelines.families.progress import Progress

_VARIANTS = 64
"""Compiled forms of one block's code at most: widths of the network times kinds of batch. torch's own limit of 8 is less than a
UNet has, and past it a block silently runs uncompiled."""


def compile_blocks(network: Any, **options: Any) -> None:
    """Have each repeated block of ``network`` compiled at its first forward; ``options`` go to `torch.compile`.

    Raises `ModelLoadFailed` for a network that names no such blocks.
    """
    names = getattr(network, "_repeated_blocks", None) or getattr(network, "_no_split_modules", None) or ()
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    if not blocks:
        msg = f"compile: blocks is not possible for {type(network).__name__}: it names no repeated blocks."
        raise ModelLoadFailed(msg)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)  # noqa: SLF001 - its public face
    for block in blocks:
        block.compile(**options)


def compiled(network: Any) -> tuple[Any, ...]:
    """The blocks of ``network`` that `compile_blocks` has had compiled."""
    return tuple(module for module in network.modules() if module._compiled_call_impl is not None)  # noqa: SLF001


@contextmanager
def as_written(blocks: Sequence[Any]) -> Iterator[None]:
    """Within it ``blocks``, which are compiled, run as they are written: compiled code does not notice hooks that come and go."""
    calls = [block._compiled_call_impl for block in blocks]  # noqa: SLF001 - torch has no public word for it
    for block in blocks:
        block._compiled_call_impl = None  # noqa: SLF001
    try:
        yield
    finally:
        for block, call in zip(blocks, calls, strict=True):
            block._compiled_call_impl = call  # noqa: SLF001


def rows_to_warm(card: ModelCard, buckets: Sequence[int]) -> list[int]:
    """The batch sizes, in evaluations, that compiled blocks should have seen: every bucket, or one guided image's."""
    guided = card.defaults.guidance > 1.0 and not card.embedded_guidance
    return [bucket for bucket in buckets if bucket <= card.limits.max_rows] or [2 if guided else 1]


@torch.inference_mode()
def warm_up(family: Family, card: ModelCard, buckets: Sequence[int], progress: Progress) -> None:
    """One forward of each batch size at the card's default size, so that no request waits for the compiler.

    Raises whatever the compiler raises.
    """
    if card.compile is Compile.OFF:
        return
    defaults, sizes = card.defaults, rows_to_warm(card, buckets)
    request = ImageRequest(
        id="warm-up",
        model=card.id,
        prompt="",
        width=defaults.width,
        height=defaults.height,
        seeds=(0,),
        sampling=Sampling(
            sampler=defaults.sampler,
            steps=1,
            guidance_scale=defaults.guidance,
            embedded_guidance=family.facts.embedded_guidance,
        ),
    )
    encoded = family.encode_prompts([Prompt("")])[0]
    conditioning = family.condition(encoded, request, negative=False)
    shape = (family.network.config.in_channels, defaults.height // family.vae.scale, defaults.width // family.vae.scale)
    for index, rows in enumerate(sizes):
        progress(f"compile for {rows}", index / len(sizes))
        latents = torch.zeros(rows, *shape, device=family.device, dtype=family.dtype)
        # As in a tick: a vector of its own for the timesteps, in float32.
        timesteps = torch.ones(rows, device=family.device, dtype=torch.float32)
        family.evaluate(latents, timesteps, stack([conditioning] * rows))
