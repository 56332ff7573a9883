"""Upstreams as they stand in models.yaml, and a server of ours before a double."""

from types import SimpleNamespace

import openai
import pytest

MODELS = """
server: {{default_model: quick}}
models:
  quick: {{source: "fake:", family: fake, defaults: {{width: 128, height: 128}}}}
upstreams:
  openai:
    base_url: "{url}/v1"
    timeouts: {{attempt: 20, total: 60}}
  hasty:
    kind: openai
    base_url: "{url}/v1"
    timeouts: {{attempt: 3, total: 60}}
aliases: {{dall-e-3: openai, gpt-image-1: auto, old: openai/gpt-image-1.5}}
"""


@pytest.fixture(scope="module")
def proxied(doubles, launch, tmp_path_factory):
    """A server of ours with the road `openai` to a double, and the official client for it."""
    double = doubles("openai")
    server = launch(
        tmp_path_factory.mktemp("proxied"), models=MODELS.format(url=double.url), env={"OPENAI_API_KEY": "sk-test-secret"}
    )
    server.until_ready(60)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield SimpleNamespace(double=double, server=server, client=client)


@pytest.fixture
def fresh(proxied):
    """The same with an empty ledger and a closed circuit."""
    proxied.double.tell("reset")
    for road in ("openai", "hasty"):
        proxied.client.images.generate(prompt="x", model=road)
    proxied.double.tell("reset")
    return proxied
