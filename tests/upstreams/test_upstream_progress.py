"""What whoever watches sees of a picture that an upstream makes: over our server and a double, on real ports."""

import base64
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.providers import percent

MODELS = """
server: {{default_model: quick}}
models:
  quick: {{source: "fake:", family: fake, defaults: {{width: 64, height: 64, steps: 20}}}}
upstreams:
  openai: {{base_url: "{openai}/v1"}}
  replicate: {{base_url: "{replicate}"}}
  stability: {{base_url: "{stability}"}}
"""
KEYS = {"OPENAI_API_KEY": "sk-1", "REPLICATE_API_TOKEN": "r8", "STABILITY_API_KEY": "k"}


@pytest.fixture(scope="module")
def api(doubles, launch, tmp_path_factory):
    urls = {kind: doubles(kind).url for kind in ("openai", "replicate", "stability")}
    return launch(tmp_path_factory.mktemp("watched"), models=MODELS.format(**urls), env=KEYS).until_ready(60).client


def told(answer):
    """Names and bodies of server-sent events."""
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in lines:
            yield lines["event"], json.loads(lines["data"])


def job_events(api, **body):
    accepted = api.post("/api/jobs", json={"prompt": "a cat", "size": "128x128", **body})
    assert accepted.status_code == 202, accepted.text
    return list(told(api.get(f"/api/jobs/{accepted.json()['id']}/events")))


def kinds(events):
    return [name for name, _ in events]


def steps(events, image=0):
    return [body["step"] for name, body in events if name == "progress" and body["image"] == image]


@pytest.mark.parametrize("road", ["openai", "replicate", "stability", "quick"])
def test_every_road_tells_the_beginning_and_the_end(api, road):
    events = job_events(api, model=road)
    found = kinds(events)
    assert (found[:2], found[-1]) == (["queued", "started"], "finished")
    assert set(found[2:-1]) == {"progress"}
    assert steps(events)[-1] == events[2][1]["steps"] == 20
    assert events[-1][1]["state"] == "succeeded"
    assert road == "quick" or steps(events) == [0, 20]


@pytest.mark.parametrize("model", ["openai", "auto"])
def test_partial_images_of_an_upstream_are_previews_of_a_job(api, model):
    events = job_events(api, model=model, previews=3, prompt='a neon sign that says "OPEN"')
    assert kinds(events)[2:-1] == ["progress", *["progress", "preview"] * 3, "progress"]
    shown = [body for name, body in events if name == "preview"]
    assert [body["step"] for body in shown] == [5, 10, 15] == steps(events)[1:-1]
    for body in shown:
        assert Image.open(io.BytesIO(base64.b64decode(body["b64"]))).format == "JPEG"
    assert events[-1][1]["route"]["road"] == "openai"


def test_a_streamed_answer_has_them_as_well(api):
    body = {"prompt": "a cat", "model": "openai", "size": "128x128", "previews": 1}
    events = list(told(api.post("/api/generate", json=body, headers={"accept": "text/event-stream"})))
    assert kinds(events) == ["started", "progress", "progress", "preview", "progress", "finished"]


def test_partial_images_of_an_edit_are_cut_out_of_the_upstreams_canvas(api):
    picture = io.BytesIO()
    Image.new("RGB", (192, 64), (10, 200, 30)).save(picture, "PNG")
    image = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    events = job_events(api, model="openai/gpt-image-1-mini", image=image, size="192x64", previews=1)
    (shown,) = (body for name, body in events if name == "preview")
    assert Image.open(io.BytesIO(base64.b64decode(shown["b64"]))).size == (192, 64)


def test_a_partial_image_that_cannot_be_read_costs_no_picture(api):
    events = job_events(api, model="openai", previews=1, prompt="[fault:partial]")
    assert (kinds(events)[-2:], events[-1][1]["state"]) == (["progress", "finished"], "succeeded")
    assert "preview" not in kinds(events)


def test_what_a_prediction_writes_of_its_progress_is_told(api):
    events = job_events(api, model="replicate", prompt="slow")
    assert steps(events) == [0, 5, 10, 20]


def test_each_of_several_images_has_its_own(api):
    events = job_events(api, model="replicate", prompt="slow", seeds=[1, 2])
    assert [steps(events, image) for image in (0, 1)] == [[0, 5, 10, 20]] * 2


@pytest.mark.parametrize(
    ("logs", "part"),
    [
        (None, 0.0),
        ("", 0.0),
        ("Using seed: 7\nNSFW 30% sure", 0.0),
        ("  0%|          | 0/8 [00:00<?]\r 38%|###8      | 3/8 [00:01<00:02]", 0.38),
        ("100%|##########| 4/4\nrefining\n 50%|#####     | 1/2", 0.5),
        ("Loading pipeline components: 100%|####| 7/7\n 25%|##        | 1/4", 0.25),
        (" 25%|##        | 1/4\nDownloading: 100%|####| 7/7", 0.25),
        (" 999%|", 1.0),
        (" 25%|##|" + "\n" * 5000, 0.0),
    ],
)
def test_progress_bars(logs, part):
    assert percent.done(logs) == part


@given(st.one_of(st.text(), st.from_regex(r"\d*%\|", fullmatch=False), st.integers(), st.none()))
def test_whatever_is_written_is_a_part_of_the_whole(logs):
    assert 0.0 <= percent.done(logs) <= 1.0
