"""Prompt embeddings, kept: negative prompts repeat endlessly, and n images of one prompt need it once."""

from collections import OrderedDict
from collections.abc import Iterable

from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family, Prompt


class Embeddings:
    """A least-recently-used cache of one model's prompt embeddings."""

    __slots__ = ("_family", "_kept", "_most")

    def __init__(self, family: Family, most: int = 512) -> None:
        """Keep at most ``most`` embeddings (SD 1.5 in float16: 115 KiB each)."""
        self._family = family
        self._kept: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._most = most

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()

    def fetch(self, prompts: Iterable[Prompt]) -> dict[Prompt, Conditioning]:
        """The embedding of each prompt; the missing ones are encoded in one batch."""
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self._kept]
        if missing:
            self._kept.update(zip(missing, self._family.encode_prompts(missing), strict=True))
        found = {prompt: self._kept[prompt] for prompt in wanted}
        for prompt in wanted:
            self._kept.move_to_end(prompt)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found
