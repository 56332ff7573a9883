"""One forward in which some rows attend to pictures as well.

At each cross-attention the row's own queries, which its text has just been asked with, are put to its pictures too, and the
answer is added, by weight, before the output layer (https://arxiv.org/abs/2308.06721, equation 5). The network's attention
processors stay as they are: the queries are overheard behind ``to_q``, the sum is slipped in before ``to_out``. Both modules are
called by the network itself, so whatever else acts on them (a LoRA) acts on the sum as in diffusers.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling

from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.references.part import ReferencePart
from pipelines.families.compiling import as_written


class _Group(msgspec.Struct, frozen=True):
    """Uses of one adapter with as many tokens, on one row each."""

    layers: Any
    rows: torch.Tensor
    """[g], none twice."""
    tokens: torch.Tensor
    """[g, T, W]."""
    weights: torch.Tensor
    """[g, 1, 1] float32."""


@contextmanager
def applied(rows: Sequence[tuple[ReferencePart, ...]]) -> Iterator[None]:
    """Inside the block a forward over ``len(rows)`` rows lets each row attend to its own pictures."""
    groups = _groups(rows)
    if not groups:
        yield
        return
    sites = next(part.sites for parts in rows for part in parts)
    with ExitStack() as hooked:
        hooked.enter_context(as_written(sites.compiled))
        for index, attention in enumerate(sites.attentions):
            site = _Site(attention.heads, [(group, group.layers[index]) for group in groups], len(rows))
            # Behind whatever changes the queries, before whatever looks at the sum.
            hooked.callback(attention.to_q.register_forward_hook(site.overhear).remove)
            hooked.callback(attention.to_out[0].register_forward_pre_hook(site.add, prepend=True).remove)
        yield


def _groups(rows: Sequence[tuple[ReferencePart, ...]]) -> list[_Group]:
    """Each row's first uses, then its second, and so on: its sum does not depend on what the other rows use."""
    alike: dict[tuple[int, ImagePrompt, int], list[tuple[int, ReferencePart]]] = {}
    for row, parts in enumerate(rows):
        for turn, part in enumerate(parts):
            alike.setdefault((turn, part.prompt, part.tokens.shape[1]), []).append((row, part))
    return [_group(prompt, members) for (_, prompt, _), members in sorted(alike.items(), key=lambda item: item[0][0])]


def _group(prompt: ImagePrompt, members: list[tuple[int, ReferencePart]]) -> _Group:
    tokens = torch.cat([part.tokens for _, part in members])
    rows = torch.tensor([row for row, _ in members])
    weights = torch.tensor([part.weight for _, part in members], dtype=torch.float32)[:, None, None]
    if tokens.device.type == "cuda":  # from pinned memory, so that the host need not wait
        rows, weights = (each.pin_memory().to(tokens.device, non_blocking=True) for each in (rows, weights))
    return _Group(prompt.layers, rows, tokens, weights)


class _Site:
    """One cross-attention during one forward; keeps its queries until they have been put to the pictures."""

    __slots__ = ("_count", "_groups", "_heads", "_queries")

    def __init__(self, heads: int, groups: list[tuple[_Group, Any]], count: int) -> None:
        self._heads, self._groups, self._count = heads, groups, count
        self._queries: torch.Tensor | None = None

    def overhear(self, _module: Any, _inputs: Any, queries: torch.Tensor) -> None:
        """Keep the ``queries`` [n, pixels, C]."""
        self._queries = queries

    def add(self, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """Add what the pictures answer to the first of ``inputs``, [n, pixels, C], which is what the text has answered."""
        answer, queries, self._queries = inputs[0], self._queries, None
        if queries is None or not len(queries) == len(answer) == self._count:
            msg = f"unreachable: a forward of {self._count} rows attends in parts ({len(answer)} rows)"
            raise RuntimeError(msg)
        for group, layer in self._groups:
            own = self._ask(queries[group.rows], layer(group.tokens))
            # In place: nobody else has it, and the rows without pictures are not even copied.
            answer.index_copy_(0, group.rows, answer[group.rows] + (own * group.weights).to(answer.dtype))

    def _ask(self, queries: torch.Tensor, keys_and_values: torch.Tensor) -> torch.Tensor:
        keys, values = keys_and_values.chunk(2, dim=-1)
        asked, by, of = (each.reshape(*each.shape[:2], self._heads, -1).transpose(1, 2) for each in (queries, keys, values))
        return F.scaled_dot_product_attention(asked, by, of).transpose(1, 2).flatten(2)
