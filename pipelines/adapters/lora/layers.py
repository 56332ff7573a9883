"""What a LoRA adds to one module, in the forms that trainers write: low-rank, Kronecker and Hadamard products.

A layer is called with the module's input and gives what is to be added to its output, still to be multiplied by `scale` and by
the weight that the user asks for.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling

_RATIOS = 8
"""Weights for which a DoRA's ratios are kept: users try a few."""


class Layer(Protocol):
    """What is added to one module's output."""

    scale: float
    """Alpha over rank, as the file says."""
    magnitude: "Magnitude | None"
    """DoRA: what the output is rescaled to."""

    @property
    def bytes(self) -> int:
        """Of its tensors on the device."""
        ...

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """For the input ``x`` of ``module``, of its output's shape."""
        ...

    def delta(self) -> torch.Tensor:
        """The change of the module's weight that it stands for, dense, in float32; `scale` is in it."""
        ...


class LowRank:
    """B(A(x)) on a linear layer (https://arxiv.org/abs/2106.09685)."""

    __slots__ = ("down", "magnitude", "scale", "up")

    def __init__(self, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        """``down`` [r, in], ``up`` [out, r]."""
        self.down, self.scale = down, scale
        self.up = up.t().contiguous()
        """[r, out]: several LoRAs' are joined along their ranks."""
        self.magnitude: Magnitude | None = None

    @property
    def rank(self) -> int:
        """Its inner width."""
        return len(self.down)

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.down.nbytes + self.up.nbytes + _bytes(self.magnitude)

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Two small products."""
        return F.linear(x, self.down) @ self.up

    def delta(self) -> torch.Tensor:
        """BA."""
        return self.up.float().t() @ self.down.float() * self.scale


class LowRankConv:
    """The same on a convolution (LoCon): the module's own kernel to r channels, then one pixel wide to all of them.

    With a core (CP, Tucker) only the core is as wide as the module's kernel.
    """

    __slots__ = ("core", "down", "magnitude", "scale", "up")

    def __init__(self, down: torch.Tensor, core: torch.Tensor | None, up: torch.Tensor, scale: float) -> None:
        """``down`` [r, in, k, k] ([r, in, 1, 1] with a ``core`` [r, r, k, k]), ``up`` [out, r, 1, 1]."""
        self.down, self.core, self.up, self.scale = down, core, up, scale
        self.magnitude: Magnitude | None = None

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return self.down.nbytes + self.up.nbytes + (0 if self.core is None else self.core.nbytes) + _bytes(self.magnitude)

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """Two or three convolutions."""
        if self.core is None:
            return F.conv2d(_like(module, x, self.down), self.up)
        return F.conv2d(_like(module, F.conv2d(x, self.down), self.core), self.up)

    def delta(self) -> torch.Tensor:
        """[out, in, k, k]."""
        up = self.up.float().flatten(1)
        if self.core is None:
            return torch.einsum("or,rikl->oikl", up, self.down.float()) * self.scale
        return torch.einsum("or,rskl,si->oikl", up, self.core.float(), self.down.float().flatten(1)) * self.scale


class Kronecker:
    """LoKr: the change is the Kronecker product of two matrices (https://arxiv.org/abs/2309.14859), which is never built."""

    __slots__ = ("first", "magnitude", "scale", "second")

    def __init__(self, first: torch.Tensor, second: torch.Tensor, scale: float) -> None:
        """``first`` [a, b], ``second`` [c, d] or [c, d, k, k]: of a module from b*d to a*c."""
        self.first, self.second, self.scale = first, second, scale
        self.magnitude: Magnitude | None = None

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.first.nbytes + self.second.nbytes + _bytes(self.magnitude)

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """The second over each of b parts of the input, the first across the parts."""
        groups = self.first.shape[1]
        if self.second.ndim == 2:  # noqa: PLR2004 - a matrix
            inner = F.linear(x.reshape(*x.shape[:-1], groups, -1), self.second)
            return torch.einsum("ab,...bc->...ac", self.first, inner).flatten(-2)
        inner = _like(module, x.reshape(len(x) * groups, -1, *x.shape[2:]), self.second)
        return torch.einsum("ab,nbchw->nachw", self.first, inner.view(len(x), groups, *inner.shape[1:])).flatten(1, 2)

    def delta(self) -> torch.Tensor:
        """The product after all."""
        first = self.first.float()
        return torch.kron(first.reshape(*first.shape, *(1,) * (self.second.ndim - 2)), self.second.float()) * self.scale


class Hadamard:
    """LoHa of high rank: the change is the elementwise product of two low-rank matrices (https://arxiv.org/abs/2108.06098).

    It is built for each evaluation and not kept: that costs as much as the module over as many tokens as the factors have ranks.
    """

    __slots__ = ("factors", "magnitude", "scale", "shape")

    def __init__(self, factors: tuple[tuple[torch.Tensor, ...], ...], scale: float, shape: tuple[int, ...]) -> None:
        """Each of two ``factors`` is [out, r] and [r, the rest], or [r, out], [r, in] and a core [r, r, k, k]."""
        self.factors, self.scale, self.shape = factors, scale, shape
        self.magnitude: Magnitude | None = None

    @property
    def bytes(self) -> int:
        """Of the factors."""
        return sum(each.nbytes for factor in self.factors for each in factor) + _bytes(self.magnitude)

    def __call__(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """The module's own operation with the change in the place of its weight."""
        weight = self._weight(self.factors)
        return F.linear(x, weight) if weight.ndim == 2 else _like(module, x, weight)  # noqa: PLR2004 - a matrix

    def delta(self) -> torch.Tensor:
        """The product in float32."""
        return self._weight(tuple(tuple(each.float() for each in factor) for factor in self.factors)) * self.scale

    def _weight(self, factors: tuple[tuple[torch.Tensor, ...], ...]) -> torch.Tensor:
        one, other = (product(*factor) for factor in factors)
        return (one * other).reshape(self.shape)


def product(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None = None) -> torch.Tensor:
    """What two factors, or three, stand for: [out, in] or [out, in, k, k]."""
    if core is None:
        return left @ right.flatten(1)
    return torch.einsum("pqkl,po,qi->oikl", core, left, right)


class Magnitude:
    """DoRA: every row of the changed weight has a length of its own (https://arxiv.org/abs/2402.09353).

    The length of W + wD over w is a parabola's root, so three numbers per row serve every weight w.
    """

    __slots__ = ("_cross", "_dtype", "_long", "_ratios", "_squares", "length")

    def __init__(self, length: torch.Tensor, weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> None:
        """``length`` [out]; ``weight`` and ``delta`` are the base's and the change of it, [out, ...], in float32."""
        base, change = weight.flatten(1).double(), delta.flatten(1).double()
        self.length = length.float()
        self._squares = (base * base).sum(1).float()
        self._cross = (base * change).sum(1).float()
        self._long = (change * change).sum(1).float()
        self._dtype = dtype
        self._ratios: dict[float, torch.Tensor] = {}

    @property
    def bytes(self) -> int:
        """Of the numbers per row, with some ratios."""
        return 6 * self.length.nbytes

    def ratio(self, weight: float) -> torch.Tensor:
        """What the output is to be multiplied by at ``weight``, [out]."""
        found = self._ratios.get(weight)
        if found is None:
            if len(self._ratios) >= _RATIOS:
                self._ratios.clear()
            length = (self._squares + 2 * weight * self._cross + weight * weight * self._long).sqrt()
            found = self._ratios[weight] = (self.length / length).to(self._dtype)
        return found


def _like(module: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x`` through a convolution as the module's, but for its weight and its bias."""
    return F.conv2d(x, weight, None, module.stride, module.padding, module.dilation)


def _bytes(magnitude: Magnitude | None) -> int:
    return 0 if magnitude is None else magnitude.bytes
