"""Attention backends and quantisation: refusals, and what is called, with networks that only take notes."""

from importlib.util import find_spec

import pytest
import torch

from pipelines.contract.catalog import Attention
from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.optimise import attend


class Noting:
    def __init__(self):
        self.asked = 0

    def enable_xformers_memory_efficient_attention(self):
        self.asked += 1


@pytest.mark.parametrize("attention", [Attention.AUTO, Attention.SDPA])
def test_torch_s_own_attention_needs_nothing(attention):
    network = Noting()
    attend(network, attention, torch.device("cpu"))
    assert network.asked == 0


def test_xformers_on_a_cpu_says_what_is_missing():
    missing = "not installed" if find_spec("xformers") is None else "CUDA devices only"
    with pytest.raises(ModelLoadFailed, match=missing):
        attend(Noting(), Attention.XFORMERS, torch.device("cpu"))
