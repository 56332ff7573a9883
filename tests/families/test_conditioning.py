"""Conditionings of unlike length: stacked with padding, and taken apart again without."""

import pytest
import torch

from pipelines.families.conditioning import Conditioning, by_length, stack


def told(length, value, dtype):
    return Conditioning(torch.full((1, length, 2), value, dtype=dtype), pooled=torch.full((1, 3), value, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_stacked_is_taken_apart_by_length(dtype):
    lengths = [77, 385, 77, 333]
    stacked = stack([told(length, float(index), dtype) for index, length in enumerate(lengths)])
    seen = {}
    for rows, own in by_length(stacked):
        assert own.mask is None
        for place, row in enumerate(rows):
            seen[row] = own.tokens[place]
            assert torch.equal(own.pooled[place], stacked.pooled[row])
    assert sorted(seen) == [0, 1, 2, 3]
    for row, length in enumerate(lengths):
        assert torch.equal(seen[row], torch.full((length, 2), float(row), dtype=dtype))


def test_without_padding_nothing_is_taken_apart():
    stacked = stack([told(77, 0.0, torch.float32), told(77, 1.0, torch.float32)])
    ((rows, own),) = by_length(stacked)
    assert rows == [0, 1]
    assert own is stacked


def test_rows_may_be_picked_in_any_order_and_twice():
    stacked = stack([told(4, float(index), torch.float32) for index in range(3)])
    picked = stacked.picked(torch.tensor([2, 0, 2]))
    assert picked.tokens[:, 0, 0].tolist() == [2.0, 0.0, 2.0]
    assert picked.pooled[:, 0].tolist() == [2.0, 0.0, 2.0]
