"""Which blocks are compiled and for which batches, with a family that only takes notes."""

from types import SimpleNamespace

import pytest
import torch

from pipelines.contract.catalog import Compile, Defaults, Limits, ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.compiling import as_written, compile_blocks, compiled, rows_to_warm, warm_up
from pipelines.families.conditioning import Conditioning


class Block(torch.nn.Module):
    def forward(self, x):
        return x * 2 + 1


class Network(torch.nn.Module):
    def __init__(self, repeated=("Block",), inner=()):
        super().__init__()
        self._repeated_blocks, self._no_split_modules = list(repeated), list(inner)
        self.first, self.second, self.last = Block(), Block(), torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.second(self.first(x)))


class Noting:
    """A family without a network."""

    device, dtype = torch.device("cpu"), torch.float32
    vae = SimpleNamespace(scale=8)
    facts = SimpleNamespace(embedded_guidance=False)
    network = SimpleNamespace(config=SimpleNamespace(in_channels=9))

    def __init__(self):
        self.asked = []

    def encode_prompts(self, prompts):
        return [Conditioning(torch.zeros(1, 77, 4)) for _ in prompts]

    def condition(self, encoded, request, *, negative):
        assert not negative
        assert (request.width, request.height) == (96, 64)
        return encoded

    def evaluate(self, latents, timesteps, conditioning, skip_layers=()):
        assert torch.is_inference_mode_enabled()
        assert skip_layers == ()
        assert len(conditioning) == len(timesteps) == len(latents)
        self.asked.append(tuple(latents.shape))


def card(*, guidance=5.0, compiled=Compile.BLOCKS, max_rows=6):
    return ModelCard(
        id="m",
        source="dir:x",
        family=Family.SD,
        compile=compiled,
        defaults=Defaults(width=96, height=64, guidance=guidance),
        limits=Limits(max_rows=max_rows),
    )


@pytest.mark.parametrize("network", [Network(), Network(repeated=(), inner=("Block",))])
def test_repeated_blocks_are_compiled_and_nothing_else(network):
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    x = torch.randn(3, 2)
    wanted = network(x)
    compile_blocks(network, backend=backend)
    assert torch.equal(network(x), wanted)
    assert seen, "nothing was compiled"
    assert network.first._compiled_call_impl is not None
    assert network.last._compiled_call_impl is None
    assert network._compiled_call_impl is None


def test_compiled_blocks_run_as_they_are_written_for_a_while():
    network, calls = Network(), []

    def backend(graph, inputs):
        return lambda *args: calls.append(1) or graph.forward(*args)

    x = torch.randn(3, 2)
    compile_blocks(network, backend=backend)
    wanted = network(x)
    assert compiled(network) == (network.first, network.second)
    calls.clear()
    with as_written(compiled(network)):
        handle = network.first.register_forward_hook(lambda _module, _inputs, output: output + 1)
        assert not torch.equal(network(x), wanted), "the hook was not noticed"
        handle.remove()
        assert not calls
    assert torch.equal(network(x), wanted)
    assert len(calls) == 2


def test_a_network_without_repeated_blocks_is_told():
    with pytest.raises(ModelLoadFailed, match="Network: it names no repeated blocks"):
        compile_blocks(Network(repeated=()))


def test_every_bucket_the_card_allows_is_warmed_up():
    family, told = Noting(), []
    warm_up(family, card(), (1, 2, 4, 6, 8), lambda part, done: told.append((part, done)))
    assert family.asked == [(rows, 9, 8, 12) for rows in (1, 2, 4, 6)]
    assert told == [("compile for 1", 0.0), ("compile for 2", 0.25), ("compile for 4", 0.5), ("compile for 6", 0.75)]


def test_without_buckets_one_image_is_enough():
    assert rows_to_warm(card(), ()) == [2]
    assert rows_to_warm(card(guidance=1.0), ()) == [1]
    assert rows_to_warm(card(max_rows=1), (2, 4)) == [2]


def test_nothing_is_warmed_up_when_nothing_is_compiled():
    family = Noting()
    warm_up(family, card(compiled=Compile.OFF), (1, 2), lambda *told: pytest.fail(str(told)))
    assert not family.asked
