"""The OpenAPI document against a real server: whatever is sent, no 5xx and nothing that the document does not tell."""

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import build
from server.settings import Settings

EXAMPLES = 8
"""Of each address and each way to go wrong: enough to have found what is mended, and done in seconds."""

MODELS = """
server: {default_model: tiny}
models:
  tiny:
    source: "fake:"
    family: fake
    defaults: {width: 64, height: 64, steps: 2, sampler: euler}
    limits: {max_pixels: 16384, max_steps: 4, max_images: 2, min_side: 16}
  org/other: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2}, limits: {max_steps: 2}}
loras: {paper-cut: {source: file:paper.safetensors, family: fake}, ink: {source: file:ink.safetensors, family: fake}}
controlnets: {canny: {source: dir:canny, family: fake}}
ip_adapters: {plus: {source: file:plus.safetensors, family: fake}}
upscalers: {sharp: {source: file:sharp.safetensors}}
"""


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    server = launch(tmp_path_factory.mktemp("schema"), models=MODELS).until_ready()
    yield server
    assert server.stop() == 0


def document():
    """As every server serves it: what it says does not depend on its models."""
    return build(Settings(home=Path("unused"), devices=("fake",))).openapi_schema.to_schema()


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(_context, value):
    """Files of lines, as they are generated: texts, mostly wrong ones."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def without_keys(whole):
    """Cases would share their Idempotency-Keys, and all but the first be refused for it: tests/server/test_idempotency.py."""
    for item in whole["paths"].values():
        for operation in item.values():
            known = operation.get("parameters", [])
            operation["parameters"] = [each for each in known if each.get("name") != "Idempotency-Key"]
    return whole


# Made here and not in a fixture, so that each address is a test of its own.
schema = schemathesis.openapi.from_dict(
    without_keys(document()),
    config=schemathesis.Config.from_dict({"generation": {"deterministic": True, "max-examples": EXAMPLES}}),
)


def test_the_document_is_what_the_server_serves(server):
    assert server.client.get("/schema").json() == document()


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_sent_is_answered_as_the_document_says(case, server):
    case.call_and_validate(
        base_url=server.url,
        checks=[not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance],
    )
