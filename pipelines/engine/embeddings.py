"""Prompt embeddings, kept: negative prompts repeat endlessly, and n images of one prompt need it once."""

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import nullcontext

import torch

from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Change, Family, Prompt


class Embeddings:
    """A least-recently-used cache of one model's prompt embeddings."""

    __slots__ = ("_bytes", "_family", "_kept", "_most")

    def __init__(self, family: Family, most: int = 64 << 20) -> None:
        """Keep at most ``most`` bytes: in float16 an embedding of SD 1.5 has 115 KiB, one of SD3 2.6 MiB."""
        self._family = family
        self._kept: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._most = most
        self._bytes = 0

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._bytes = 0

    def fetch(self, prompts: Iterable[Prompt]) -> dict[Prompt, Conditioning]:
        """The embedding of each prompt; the missing ones are encoded in one batch, or one for each change of the encoders."""
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._kept]
        if missing:
            self._encode(missing)
        found = {prompt: self._kept[prompt] for prompt in wanted}
        for prompt in wanted:
            self._kept.move_to_end(prompt)
        while self._bytes > self._most:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found

    def _encode(self, missing: list[Prompt]) -> None:
        """Prompts for which the text encoders are changed alike are read together."""
        alike: dict[Change | None, list[Prompt]] = {}
        for prompt in missing:
            alike.setdefault(prompt.change, []).append(prompt)
        for change, prompts in alike.items():
            with nullcontext() if change is None else change.applied():
                made = self._family.encode_prompts(prompts)
            self._kept.update(zip(prompts, made, strict=True))
            self._bytes += sum(map(_size, made))


def _size(conditioning: Conditioning) -> int:
    parts = (conditioning.tokens, conditioning.pooled, conditioning.sizes, conditioning.guidance, conditioning.mask)
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
