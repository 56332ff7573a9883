"""Modules as the memory books know them: measured, recognised, shared, let go of."""

import gc
import sys
import weakref
from pathlib import Path

import pytest
import torch

from pipelines.contract.catalog import Dtype, ModelCard
from pipelines.contract.family import Family
from pipelines.families import sizes
from pipelines.families.shared import Shared
from pipelines.families.weights import ModuleWeights

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))


@pytest.fixture(scope="module")
def tinies():
    from tiny import Tiny

    return Tiny(seed=0), Tiny(seed=0), Tiny(seed=1)


class Given:
    """Parts that are there already."""

    def __init__(self, **modules):
        self._modules = modules
        self.asked = []

    def module(self, name, kind):  # noqa: ARG002 - the protocol's signature
        self.asked.append(name)
        return self._modules[name]


def test_bytes_are_those_of_parameters_and_buffers(tinies):
    module = tinies[0].vae
    assert ModuleWeights(module).bytes == sum(t.numel() * t.element_size() for t in module.state_dict().values())
    linear = torch.nn.Linear(4, 4, bias=False)
    linear.tied = torch.nn.Linear(4, 4, bias=False)
    linear.tied.weight = linear.weight
    assert ModuleWeights(linear).bytes == 64, "tied weights are counted once"


def test_equal_content_has_one_identity_wherever_it_came_from(tinies):
    one, same, other = (ModuleWeights(tiny.vae, shareable=True) for tiny in tinies)
    assert one.same(same)
    assert one.identity == same.identity
    assert not one.same(other)
    assert ModuleWeights(tinies[0].vae).identity is None


def test_a_config_that_changes_the_meaning_of_the_weights_is_another_component(tinies):
    from diffusers import AutoencoderKL

    # diffusers leaves out of a config what was left to its defaults before.
    config = {**tinies[0].vae.config, "scaling_factor": 0.5, "_use_default_values": []}
    twin = AutoencoderKL.from_config(config).eval()
    twin.load_state_dict(tinies[0].vae.state_dict())
    assert not ModuleWeights(tinies[0].vae, shareable=True).same(ModuleWeights(twin, shareable=True))


def test_an_equal_vae_and_text_encoder_are_taken_from_the_shelf_and_a_network_never(tinies):
    one, same, other = tinies
    first = Shared()
    for name in ("unet", "vae", "text_encoder"):
        first.module(name, None, Given(unet=one.unet, vae=one.vae, text_encoder=one.text_encoder))
    live = tuple(first.taken().items())
    second = Shared(others=live)
    parts = Given(unet=same.unet, vae=same.vae, text_encoder=other.text_encoder)
    assert second.module("vae", None, parts) is one.vae
    assert second.module("unet", None, parts) is same.unet
    assert second.module("text_encoder", None, parts) is other.text_encoder
    assert second.taken()["vae"] is first.taken()["vae"]
    again = Shared(own=second.taken(), others=live)
    parts = Given(unet=same.unet)
    again.module("vae", None, parts)
    again.module("unet", None, parts)
    assert parts.asked == ["unet"], "what it had and others still have is not read again"


def test_dropping_frees_the_module():
    module = torch.nn.Linear(8, 8)
    alive, weights = weakref.ref(module), ModuleWeights(module)
    del module
    weights.to_ram()
    weights.to_device()
    assert alive() is not None
    weights.drop()
    gc.collect()
    assert alive() is None


def test_headers_promise_what_loading_measures():
    card = ModelCard(id="demo", source="bundled:demo", family=Family.SD)
    full = sizes.expected(card, torch.device("cpu"))
    folder = Path("pipelines/bundled/demo")
    stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert 0.5 * stored < full < 4.1 * stored
    half = ModelCard(id="demo", source="bundled:demo", family=Family.SD, dtype=Dtype.FLOAT16)
    assert sizes.expected(half, torch.device("cpu")) * 2 == full
    assert sizes.expected(ModelCard(id="x", source="hf:a/b", family=Family.SD), torch.device("cpu")) == 0
