"""Residuals times what each row gives them."""

from collections.abc import Sequence

import torch


def scaled(tensors: Sequence[torch.Tensor], scales: Sequence[Sequence[float]]) -> tuple[torch.Tensor, ...]:
    """Each of the ``tensors`` [n, ...] times its column of ``scales``, which has a list for each of the n rows."""
    if all(scale == 1.0 for row in scales for scale in row):
        return tuple(tensors)
    first = tensors[0]
    factors = torch.tensor(scales, dtype=first.dtype).to(first.device)
    return tuple(tensor * factors[:, index].reshape(-1, *[1] * (tensor.ndim - 1)) for index, tensor in enumerate(tensors))
