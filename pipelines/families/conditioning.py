"""What an evaluation is told beside latents and timestep: named tensors with one row per evaluation."""

from collections.abc import Iterator, Sequence

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling


class Conditioning(msgspec.Struct, frozen=True):
    """Conditioning of n evaluations; None where the family has no such input."""

    tokens: torch.Tensor
    """Token embeddings, [n, T, W]."""
    pooled: torch.Tensor | None = None
    """The prompt as one vector, [n, P]."""
    sizes: torch.Tensor | None = None
    """SDXL's sizes, crops and aesthetic score, [n, 5 or 6]."""
    guidance: torch.Tensor | None = None
    """The guidance scale as an embedding, [n, G], for networks that take it as an input."""
    mask: torch.Tensor | None = None
    """[n, T]: 1 where `tokens` counts, 0 where it is padding; None when everything counts."""

    def __len__(self) -> int:
        """Evaluations."""
        return len(self.tokens)

    def rows(self, first: int, last: int) -> "Conditioning":
        """The evaluations from ``first`` up to but not including ``last``."""
        return self._own(slice(first, last))

    def picked(self, rows: torch.Tensor) -> "Conditioning":
        """Some evaluations, in the order of the indices ``rows``; one may be there several times."""
        return self._own(rows)

    def _own(self, own: slice | torch.Tensor) -> "Conditioning":
        return Conditioning(
            self.tokens[own],
            pooled=None if self.pooled is None else self.pooled[own],
            sizes=None if self.sizes is None else self.sizes[own],
            guidance=None if self.guidance is None else self.guidance[own],
            mask=None if self.mask is None else self.mask[own],
        )


def stack(conditionings: Sequence[Conditioning]) -> Conditioning:
    """All of them as one, in order. Shorter token sequences are padded and masked, which changes no result.

    The others' parts must be alike: either all conditionings have one, or none.
    """
    longest = max(each.tokens.shape[1] for each in conditionings)
    ragged = any(each.tokens.shape[1] != longest or each.mask is not None for each in conditionings)
    tokens = torch.cat([F.pad(each.tokens, (0, 0, 0, longest - each.tokens.shape[1])) for each in conditionings])
    mask = torch.cat([_mask(each, longest) for each in conditionings]) if ragged else None
    return Conditioning(
        tokens,
        pooled=_joined([each.pooled for each in conditionings]),
        sizes=_joined([each.sizes for each in conditionings]),
        guidance=_joined([each.guidance for each in conditionings]),
        mask=mask,
    )


def by_length(conditioning: Conditioning) -> Iterator[tuple[list[int], Conditioning]]:
    """The evaluations with equally many tokens, and what they are told without padding: for networks that take no mask."""
    if conditioning.mask is None:
        yield list(range(len(conditioning))), conditioning
        return
    # Counted, not summed: in bfloat16 a sum past 256 is rounded.
    lengths = (conditioning.mask != 0).sum(dim=1).tolist()
    for length in sorted(set(lengths)):
        rows = [index for index, each in enumerate(lengths) if each == length]
        own = conditioning.picked(torch.tensor(rows).to(conditioning.tokens.device))
        yield rows, msgspec.structs.replace(own, tokens=own.tokens[:, :length], mask=None)


def _mask(conditioning: Conditioning, longest: int) -> torch.Tensor:
    tokens = conditioning.tokens
    own = tokens.new_ones(tokens.shape[:2]) if conditioning.mask is None else conditioning.mask
    return F.pad(own, (0, longest - own.shape[1]))


def _joined(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part for part in parts if part is not None]
    if present and len(present) != len(parts):
        msg = "some conditionings have a part that others lack"
        raise ValueError(msg)
    return torch.cat(present) if present else None
