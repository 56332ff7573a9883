"""All control networks of one evaluation: each sees the rows that ask for it, what they say is added up row by row."""

from collections.abc import Callable, Iterator, Sequence

import torch

from pipelines.adapters.control.network import Asked, ControlNetwork, Said
from pipelines.adapters.control.part import ControlPart
from pipelines.families.conditioning import Conditioning, by_length
from pipelines.families.family import Family
from pipelines.families.residuals import NONE, Residuals


def residuals(
    family: Family,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    rows: Sequence[tuple[ControlPart, ...]],
) -> Residuals:
    """What the control networks of all rows add; zeros for rows without any, which no control network sees.

    ``latents`` are the network's input; control networks see them without mask channels, as in diffusers.
    """
    own = latents[:, : family.vae.channels]
    total = NONE
    for network, indices, parts in _by_network(rows):
        # They take no mask of text: rows of one length share a forward, others have their own.
        for same, told in by_length(_picked(conditioning, indices)):
            chosen = [indices[index] for index in same]
            which = _indices(chosen, own)
            asked = Asked(chosen, [parts[index] for index in same], own[which], timesteps[which], told)
            for said in network.speak(family, asked):
                total = _sum(total, _placed(said, len(rows)))
    return total


def _indices(rows: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """``rows`` on the device, once for all tensors: each list that indexes a tensor there would be copied by itself."""
    return torch.tensor(rows).to(like.device)


def _picked(conditioning: Conditioning, rows: list[int]) -> Conditioning:
    return conditioning if rows == list(range(len(conditioning))) else conditioning.picked(_indices(rows, conditioning.tokens))


def _by_network(
    rows: Sequence[tuple[ControlPart, ...]],
) -> Iterator[tuple[ControlNetwork, list[int], list[ControlPart]]]:
    """Each network with the rows that ask for it, and what they ask; in the order in which rows name them."""
    asked: dict[int, tuple[ControlNetwork, list[int], list[ControlPart]]] = {}
    for index, parts in enumerate(rows):
        for part in parts:
            _, indices, own = asked.setdefault(id(part.network), (part.network, [], []))
            indices.append(index)
            own.append(part)
    yield from asked.values()


def _placed(said: Said, total: int) -> Residuals:
    """``said`` among ``total`` evaluations, zero for all others."""
    if said.rows == list(range(total)):
        return said.residuals
    waves = list(_waves(said.rows))
    placings: list[tuple[torch.Tensor, torch.Tensor]] = []
    done: dict[int, torch.Tensor] = {}

    def place(tensor: torch.Tensor) -> torch.Tensor:
        if not placings:
            placings.extend((_indices(own, tensor), _indices(targets, tensor)) for own, targets in waves)
        if id(tensor) not in done:  # one residual may stand for a run of blocks
            placed = tensor.new_zeros(total, *tensor.shape[1:])
            for own, targets in placings:
                placed.index_add_(0, targets, tensor if len(placings) == 1 else tensor[own])
            done[id(tensor)] = placed
        return done[id(tensor)]

    return _each(place, said.residuals)


def _waves(rows: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """``rows`` in parts that name each row once: a GPU adds to one row in any order, and sums would differ by a rounding."""
    left = list(enumerate(rows))
    while left:
        first = {row: index for index, row in reversed(left)}
        own = sorted(first.values())
        yield own, [rows[index] for index in own]
        left = [pair for pair in left if pair[0] not in set(own)]


def _each(function: Callable[[torch.Tensor], torch.Tensor], said: Residuals) -> Residuals:
    def part(tensors: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...] | None:
        return None if tensors is None else tuple(function(tensor) for tensor in tensors)

    return Residuals(part(said.down), None if said.mid is None else function(said.mid), part(said.intra), part(said.blocks))


def _sum(one: Residuals, other: Residuals) -> Residuals:
    def parts(ours: tuple[torch.Tensor, ...] | None, theirs: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...] | None:
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        return tuple(a + b for a, b in zip(ours, theirs, strict=True))

    mid = (other.mid if one.mid is None else one.mid) if one.mid is None or other.mid is None else one.mid + other.mid
    return Residuals(parts(one.down, other.down), mid, parts(one.intra, other.intra), parts(one.blocks, other.blocks))
