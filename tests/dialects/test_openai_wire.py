"""What goes over the wire, byte for byte but for what changes by nature; AQUATINT_GOLDEN=write rewrites the files."""

import base64
import io
import json
import re

import pytest
from PIL import Image

REQUESTS = {
    "generation_b64": {"prompt": "a red circle", "seed": 7, "n": 2, "size": "64x64"},
    "generation_url": {"prompt": "a red circle", "seed": 7, "model": "dall-e-3", "quality": "hd", "output_format": "webp"},
    "error_value": {"prompt": "x", "size": "127x1"},
    "error_missing": {},
    "error_type": {"prompt": "x", "n": "two"},
    "error_model": {"prompt": "x", "model": "org/none"},
}
HEADERS = ("content-type", "openai-version", "x-should-retry", "retry-after")


def normal(value):
    """``value`` without what differs from run to run."""
    if isinstance(value, dict):
        return {key: MARKS[key](item) if key in MARKS else normal(item) for key, item in value.items()}
    return [normal(item) for item in value] if isinstance(value, list) else value


def described(b64):
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    return f"<{image.format} {image.mode} {image.width}x{image.height}>"


MARKS = {
    "created": lambda value: "<unix time>" if isinstance(value, int) and value > 1.7e9 else value,
    "created_at": lambda value: "<unix time>" if isinstance(value, int) and value > 1.7e9 else value,
    "b64_json": described,
    "url": lambda url: re.sub(
        r"^http://127\.0\.0\.1:\d+/outputs/[\w-]{32}(\.\w+)\?expires=\d+&signature=[\w-]{43}$", r"<server>/outputs/<name>\1", url
    ),
}


def wire(response):
    kept = {name: response.headers[name] for name in HEADERS if name in response.headers}
    return {"status": response.status_code, "headers": kept, "body": normal(response.json())}


@pytest.mark.parametrize("name", REQUESTS)
def test_generations(fake_server, golden, name):
    golden(name, wire(fake_server.client.post("/v1/images/generations", json=REQUESTS[name])))


@pytest.mark.parametrize(
    ("name", "path"), [("models", "/v1/models"), ("model", "/v1/models/demo"), ("error_address", "/v1/none")]
)
def test_reading(fake_server, golden, name, path):
    golden(name, wire(fake_server.client.get(path)))


def test_stream(fake_server, golden):
    body = {"prompt": "x", "seed": 1, "stream": True, "partial_images": 1, "steps": 4, "size": "64x64"}
    with fake_server.client.stream("POST", "/v1/images/generations", json=body) as response:
        blocks = response.read().decode().strip().split("\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in blocks:
        event, data = block.split("\n")
        events.append([event, normal(json.loads(data.removeprefix("data: ")))])
    golden("stream", events)


def test_unknown_keys_are_ignored(fake_server):
    body = {"prompt": "x", "n": None, "user": "u", "moderation": "low", "style": "vivid", "extra": [{"name": 1}], "svg": {}}
    assert fake_server.client.post("/v1/images/generations", json=body).status_code == 200
