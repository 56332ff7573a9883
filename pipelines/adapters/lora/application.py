"""LoRAs in a forward: each row gets its own, the base's weights stay as they are.

A module that some row's LoRA changes has a hook for the length of one forward. Where all that is added is low-rank and linear,
it is added in one go, whatever the number of LoRAs: the rows' matrices are joined and multiplied as one batch. Other forms are
added LoRA by LoRA, to all rows that use it at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.adapters.lora.layers import Layer, LowRank
from pipelines.adapters.lora.parts import Layers, LoraPart
from pipelines.families.compiling import as_written

_HOOK = -1
"""The hook's place in a module's table; torch numbers its own from 0 up."""

Uses = tuple[tuple[Layer, float], ...]
"""What one row adds to one module, in the order of the request."""

Where = slice | torch.Tensor | None
"""Rows of a batch: all of them, adjacent ones, or any."""


class Rows:
    """The rows of one forward, and the small tensors that its hooks share."""

    __slots__ = ("_scales", "_where", "count")

    def __init__(self, count: int | None) -> None:
        """``count`` rows; None for any number, all alike."""
        self.count = count
        self._where: dict[tuple[int, ...], Where] = {}
        self._scales: dict[tuple[tuple[tuple[int, float], ...], ...], torch.Tensor] = {}

    def check(self, x: torch.Tensor) -> None:
        """Raise if ``x`` is not of these rows: hooks that guess would mix pictures up."""
        if self.count is not None and len(x) != self.count:
            msg = f"a module was called with {len(x)} rows while LoRAs are set for {self.count}"
            raise RuntimeError(msg)

    def where(self, rows: tuple[int, ...] | None, device: torch.device) -> Where:
        """How to pick ``rows``, which rise."""
        if rows is None or len(rows) == self.count:
            return None
        if rows[-1] - rows[0] + 1 == len(rows):
            return slice(rows[0], rows[-1] + 1)
        if rows not in self._where:
            self._where[rows] = _sent(torch.tensor(rows), device)
        return self._where[rows]

    def scales(self, ranks: tuple[tuple[tuple[int, float], ...], ...], like: torch.Tensor) -> torch.Tensor:
        """For each row its ranks' scales, 0 where another row has more ranks: [rows, 1, ranks]."""
        found = self._scales.get(ranks)
        if found is None:
            most = max(sum(rank for rank, _ in row) for row in ranks)
            lines = []
            for row in ranks:
                line = [scale for rank, scale in row for _ in range(rank)]
                lines.append([line + [0.0] * (most - len(line))])
            found = self._scales[ranks] = _sent(torch.tensor(lines, dtype=like.dtype), like.device)
        return found


class Addition:
    """The hook of one module in one forward."""

    __slots__ = ("_frame", "_joint", "_sets")

    def __init__(self, frame: Rows) -> None:
        """For the forward of ``frame``'s rows."""
        self._frame = frame
        self._sets: list[tuple[Uses, tuple[int, ...] | None]] = []
        self._joint = True

    def add(self, uses: Uses, rows: tuple[int, ...] | None) -> None:
        """``rows`` add ``uses``."""
        self._sets.append((uses, rows))
        if self._joint:
            for layer, _ in uses:
                if type(layer) is not LowRank or layer.magnitude is not None:
                    self._joint = False

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        """The module's output with everything added."""
        x = given[0]
        self._frame.check(x)
        if self._joint and (len(self._sets) > 1 or len(self._sets[0][0]) > 1) and self._frame.count is not None:
            return self._jointly(x, y)
        return self._one_by_one(module, x, y)

    def _jointly(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """All low-rank layers of all rows as one batch of matrices: five operations for any number of LoRAs."""
        own: dict[int, Uses] = {row: uses for uses, rows in self._sets for row in rows or range(len(x))}
        rows = tuple(sorted(own))
        where = self._frame.where(rows, x.device)
        ranks = tuple(tuple((_low(layer).rank, layer.scale * weight) for layer, weight in own[row]) for row in rows)
        scales = self._frame.scales(ranks, x)
        most = scales.shape[-1]
        downs: list[torch.Tensor] = []
        ups: list[torch.Tensor] = []
        for row, taken in zip(rows, ranks, strict=True):
            for layer, _ in own[row]:
                downs.append(_low(layer).down)
                ups.append(_low(layer).up)
            spare = most - sum(rank for rank, _ in taken)
            if spare:
                # Zeros of its own: another row's numbers times a scale of zero need not be zero.
                downs.append(x.new_zeros(spare, x.shape[-1]))
                ups.append(y.new_zeros(spare, y.shape[-1]))
        down = torch.cat(downs).view(len(rows), most, -1)
        up = torch.cat(ups).view(len(rows), most, -1)
        inner = torch.bmm(_picked(x, where).reshape(len(rows), -1, x.shape[-1]), down.transpose(1, 2)).mul_(scales)
        flat = y.reshape(len(y), -1, y.shape[-1])
        if isinstance(where, torch.Tensor):
            flat.index_add_(0, where, torch.bmm(inner, up))
        else:
            flat[where or slice(None)].baddbmm_(inner, up)
        return flat.view(y.shape)

    def _one_by_one(self, module: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """In rounds, for DoRA rescales what was added before: first every row's first LoRA, then the second ones."""
        for turn in range(max(len(uses) for uses, _ in self._sets)):
            alike: dict[tuple[Layer, float], list[int] | None] = {}
            for uses, rows in self._sets:
                if turn < len(uses):
                    known = alike.get(uses[turn])
                    alike[uses[turn]] = None if rows is None else [*(known or ()), *rows]
            for (layer, weight), chosen in alike.items():
                where = self._frame.where(None if chosen is None else tuple(sorted(chosen)), x.device)
                added = layer(module, _picked(x, where))
                factor = layer.scale * weight
                if layer.magnitude is not None:
                    ratio = layer.magnitude.ratio(weight)
                    added, factor = _rescaled(module, _picked(y, where), added * factor, ratio), 1.0
                _add(y, where, added, factor)
        return y


def _rescaled(module: Any, y: torch.Tensor, added: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """DoRA: what is to be added to ``y`` so that both, without the bias, are multiplied by ``ratio`` [out]."""
    so_far = y if module.bias is None else y - _across(module.bias, y)
    wide = _across(ratio, y)
    return added * wide + so_far * (wide - 1)


def _add(y: torch.Tensor, where: Where, added: torch.Tensor, factor: float) -> None:
    if where is None:
        y.add_(added, alpha=factor)
    elif isinstance(where, slice):
        y[where].add_(added, alpha=factor)
    else:
        y.index_add_(0, where, added, alpha=factor)


def _across(values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One value per output, broadcast over ``y``: the last axis of a linear layer's, the second of a convolution's."""
    return values.view(-1, 1, 1) if y.ndim == 4 else values  # noqa: PLR2004 - [n, C, h, w]


def _picked(x: torch.Tensor, where: Where) -> torch.Tensor:
    if where is None:
        return x
    return x[where] if isinstance(where, slice) else x.index_select(0, where)


def _low(layer: Layer) -> LowRank:
    return layer  # type: ignore[return-value] # only such layers are added jointly


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On ``device``, without waiting for what it is doing."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def applied(rows: Sequence[tuple[LoraPart, ...]]) -> Iterator[None]:
    """Inside the block a forward over ``len(rows)`` rows gives each row its own LoRAs.

    All forwards inside must be over these very rows. The network's compiled blocks run uncompiled meanwhile: a graph would not
    have the hooks in it.
    """
    companies: dict[tuple[LoraPart, ...], list[int]] = {}
    for row, own in enumerate(rows):
        if own:
            companies.setdefault(own, []).append(row)
    if not companies:
        yield
        return
    frame = Rows(len(rows))
    hooks: dict[Any, Addition] = {}
    for own, members in companies.items():
        place = tuple(members)
        for module, uses in _uses([(part.lora.network, part.weight) for part in own]).items():
            hook = hooks.get(module)
            if hook is None:
                hook = hooks[module] = Addition(frame)
            hook.add(uses, place)
    blocks = {block for own in companies for part in own for held in part.lora.compiled if (block := held()) is not None}
    with as_written(list(blocks)), _hooked(hooks):
        yield


@contextmanager
def uniformly(added: Sequence[tuple[Layers, float]]) -> Iterator[None]:
    """Inside the block every forward of the layers' modules has all of ``added``, with their weights, on all rows."""
    frame = Rows(None)
    hooks: dict[Any, Addition] = {}
    for module, uses in _uses(added).items():
        hooks[module] = Addition(frame)
        hooks[module].add(uses, None)
    with _hooked(hooks):
        yield


def _uses(added: Sequence[tuple[Layers, float]]) -> dict[Any, Uses]:
    """What each module gets; this and what follows it is done for 800 modules in each tick."""
    found: dict[Any, Uses] = {}
    for layers, weight in added:
        for held, layer in layers:
            module = held()
            if module is not None:
                found[module] = (*found[module], (layer, weight)) if module in found else ((layer, weight),)
    return found


@contextmanager
def _hooked(hooks: Mapping[Any, Addition]) -> Iterator[None]:
    """Put straight into the modules' tables: a large network has 800 such modules, and registering takes ten times as long."""
    try:
        for module, hook in hooks.items():
            module._forward_hooks[_HOOK] = hook  # noqa: SLF001 - see above
        yield
    finally:
        for module in hooks:
            module._forward_hooks.pop(_HOOK, None)  # noqa: SLF001
