"""Tokens of any number, cut into the chunks that a CLIP text encoder can read; the rules are A1111's."""

from collections.abc import Iterable, Sequence

import msgspec
import torch

_REACH = 20
"""A chunk that is full ends at its last comma, if that is among its last so many tokens: a phrase is better read whole."""


class Token(msgspec.Struct, frozen=True):
    """One place in a chunk."""

    id: int
    weight: float = 1.0
    vector: torch.Tensor | None = None
    """[W]: put in the place of the embedding of `id`."""


def chunked(
    groups: Iterable[Sequence[Token] | None], length: int, *, comma: int | None, most: int | None = None
) -> list[list[Token]]:
    """Chunks of at most ``length`` tokens, at least one chunk; None among ``groups`` begins a new chunk, a group is never split.

    With ``most`` chunks the last one is cut off at ``length`` tokens, whatever else was to come, as diffusers does.
    """
    chunks: list[list[Token]] = []
    chunk: list[Token] = []
    last_comma: int | None = None
    for group in groups:
        final = most is not None and len(chunks) + 1 >= most
        if group is None:
            if not final:
                chunks.append(chunk)
                chunk, last_comma = [], None
            continue
        if len(group) == 1 and group[0].id == comma and group[0].vector is None:
            last_comma = len(chunk)
        elif not final and len(chunk) == length and last_comma is not None and length - last_comma <= _REACH:
            chunks.append(chunk[: last_comma + 1])
            chunk, last_comma = chunk[last_comma + 1 :], None
        if len(chunk) + len(group) > length:
            if most is not None and len(chunks) + 1 >= most:
                break
            chunks.append(chunk)
            chunk, last_comma = [], None
        chunk.extend(group)
    if chunk or not chunks:
        chunks.append(chunk)
    return chunks
