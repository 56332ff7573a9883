"""Prompt embeddings, kept: negative prompts repeat endlessly, and n images of one prompt need it once."""

from collections import OrderedDict
from collections.abc import Iterable

import torch

from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family, Prompt


class Embeddings:
    """A least-recently-used cache of one model's prompt embeddings."""

    __slots__ = ("_bytes", "_family", "_kept", "_most")

    def __init__(self, family: Family, most: int = 64 << 20) -> None:
        """Keep at most ``most`` bytes: in float16 an embedding of SD 1.5 has 115 KiB, one of SD3 2.6 MiB."""
        self._family = family
        self._kept: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._most = most
        self._bytes = 0

    def fetch(self, prompts: Iterable[Prompt]) -> dict[Prompt, Conditioning]:
        """The embedding of each prompt; the missing ones are encoded in one batch."""
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._kept]
        if missing:
            made = self._family.encode_prompts(missing)
            self._kept.update(zip(missing, made, strict=True))
            self._bytes += sum(map(_size, made))
        found = {prompt: self._kept[prompt] for prompt in wanted}
        for prompt in wanted:
            self._kept.move_to_end(prompt)
        while self._bytes > self._most:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found


def _size(conditioning: Conditioning) -> int:
    parts = (conditioning.tokens, conditioning.pooled, conditioning.sizes, conditioning.guidance, conditioning.mask)
    return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
