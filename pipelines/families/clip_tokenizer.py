"""CLIP's tokenizer from the merges that ship with the project: single files carry none."""

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

_MERGES = Path(str(files("pipelines"))) / "families" / "configs" / "clip" / "merges.txt.gz"


def clip_tokenizer(kind: Any, config: Path) -> Any:
    """A ``kind`` (CLIPTokenizer) with the settings in ``config`` (tokenizer_config.json)."""
    settings = {key: value for key, value in json.loads(config.read_text()).items() if key != "tokenizer_class"}
    merges = [tuple(line.split(" ")) for line in gzip.decompress(_MERGES.read_bytes()).decode().splitlines()]
    return kind(vocab=_vocabulary(merges, settings["bos_token"], settings["eos_token"]), merges=merges, **settings)


def _vocabulary(merges: list[tuple[str, ...]], *specials: str) -> dict[str, int]:
    """256 byte letters, the same at the end of a word, one token per merge, the special tokens: 49,408 in this order."""
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), *specials]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[str]:
    """The printable stand-in for each byte, as in GPT-2: printable bytes first, then 256, 257, ... for the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]
