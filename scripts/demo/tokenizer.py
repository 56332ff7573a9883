"""A CLIP tokenizer of a few hundred tokens, learnt from the demo's own words."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import CLIPTokenizer

from scripts.demo.recipe import TOKENS
from scripts.demo.scenes import COLOURS, FILLERS, RADII, RELATIONS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MERGES = 300
# Common words of prompts beside the demo's own: as single tokens they leave room for longer prompts.
COMMON_WORDS = (
    "the of and to in is for with at by from up no not it this that as are be or an two three four five one many some all "
    "man woman child girl boy face eyes hair hand animal bird fish horse flower mountain sea water river beach forest field "
    "night day sun moon stars fire snow rain cloud summer winter street room table chair window door car boat train "
    "painting painted oil watercolor sketch pencil ink photograph photography camera lens film digital concept render "
    "realistic cinematic dramatic soft bright colorful vibrant pastel sharp focus depth background foreground wide close "
    "under below right bottom top inside beside near behind front between over around shape color colour size big tiny huge"
)


def byte_symbols() -> list[str]:
    """Return CLIP's printable stand-in for each of the 256 bytes, in its own order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learn byte-pair merges: the most frequent neighbours first, ties in alphabetical order."""
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelled.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer whose vocabulary covers all bytes, so that any prompt has tokens."""
    words = Counter(COMMON_WORDS.split())
    own = " ".join([*COLOURS, *SHAPES, *RADII, *RELATIONS, "a an on background"])
    words.update(dict.fromkeys(own.split(), 100))
    words.update(dict.fromkeys(" ".join(FILLERS).split(), 10))
    merges = learn_merges(words, MERGES)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "errors": "replace", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def tokenise(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Turn prompts into ids the way the pipelines do at inference: padded to 77, no attention mask."""
    return torch.tensor(tokenizer(list(prompts), padding="max_length", max_length=TOKENS, truncation=True).input_ids)
