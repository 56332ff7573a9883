"""A prompt at one step, as text encoders are to read it: pieces of text with weights, and chunk ends."""

import msgspec

MAX_WEIGHT = 20.0
"""Weights are held to -20..20: beyond a few units a picture is noise already, and float16 must not overflow."""


class Fragment(msgspec.Struct, frozen=True):
    """A piece of text whose tokens share a weight."""

    text: str
    weight: float = 1.0
    """1 leaves the embedding as it is; from -`MAX_WEIGHT` to `MAX_WEIGHT`."""
    learned: bool = False
    """The name of a textual-inversion embedding, which stands for vectors instead of tokens."""


class Break(msgspec.Struct, frozen=True):
    """The word ``BREAK``: what follows begins a new chunk of tokens."""


Wording = tuple[Fragment | Break, ...]
"""Hashable: equal wordings have equal embeddings."""


def plain(wording: Wording) -> str:
    """The words alone, for encoders that know no weights and no chunks."""
    return "".join(part.text if isinstance(part, Fragment) else " " for part in wording)


def size(wording: Wording) -> int:
    """Its length in bytes: no token of CLIP is shorter. A break or a learned word counts 75, the chunk that it may fill up."""
    texts = [part.text for part in wording if isinstance(part, Fragment) and not part.learned]
    return sum(len(text.encode(errors="replace")) for text in texts) + 75 * (len(wording) - len(texts))
