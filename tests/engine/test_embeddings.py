"""What the cache of prompt embeddings keeps, and how much of it."""

import torch

from pipelines.engine.embeddings import Embeddings
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Prompt


class Counting:
    """Encodes a prompt as its length, in 1,024 bytes, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def encode_prompts(self, prompts):
        self.asked.append([prompt.text for prompt in prompts])
        return [Conditioning(torch.full((1, 1, 255), float(len(p.text))), pooled=torch.zeros(1, 1)) for p in prompts]


def test_each_prompt_is_encoded_once_and_the_missing_ones_together():
    family = Counting()
    cache = Embeddings(family)
    found = cache.fetch([Prompt("a"), Prompt("bb"), Prompt("a")])
    assert {prompt.text: float(each.tokens[0, 0, 0]) for prompt, each in found.items()} == {"a": 1.0, "bb": 2.0}
    cache.fetch([Prompt("a"), Prompt("ccc")])
    assert family.asked == [["a", "bb"], ["ccc"]]


def test_the_least_recently_used_goes_when_the_bytes_are_full():
    family = Counting()
    cache = Embeddings(family, most=2048)
    cache.fetch([Prompt("a"), Prompt("b")])
    cache.fetch([Prompt("a")])
    cache.fetch([Prompt("c")])
    cache.fetch([Prompt("a")])
    assert family.asked == [["a", "b"], ["c"]]
    cache.fetch([Prompt("b")])
    assert family.asked[-1] == ["b"]


def test_more_than_fits_is_still_answered():
    cache = Embeddings(Counting(), most=1024)
    prompts = [Prompt("a"), Prompt("b"), Prompt("c")]
    assert set(cache.fetch(prompts)) == set(prompts)
