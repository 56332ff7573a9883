"""Moderation over HTTP: a real server on the fake device, a classifier that goes by colour, the official client."""

import base64
import io
import json
from zlib import crc32

import openai
import pytest
from click.testing import CliRunner
from PIL import Image

from server.cli import main

MODELS = """
server: {default_model: quick}
models: {quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: euler}}}
styles: {study: {prompt: "nude study of {prompt}"}}
tenants:
  default: {moderation: {images: LEVEL, block: ["acme*"], allow: ["nude beige"], categories: {violence: flag}}}
"""
PROMPT = "a shape"


def seed_of(colour):
    """A seed of `PROMPT` whose picture on the fake device is red, blue or neither; see pipelines.engine.fake."""
    for seed in range(10_000):
        mark = crc32(f"{PROMPT}\0{seed}".encode())
        ends = (mark & 255, mark >> 8 & 255, mark >> 16 & 255), (mark >> 24 & 255, mark >> 4 & 255, mark >> 12 & 255)
        lead = {"red": 0, "blue": 2}.get(colour)
        if lead is None and all(max(end) - sorted(end)[1] < 20 for end in ends):
            return seed
        if lead is not None and all(end[lead] - max(other for i, other in enumerate(end) if i != lead) > 80 for end in ends):
            return seed
    raise AssertionError(colour)


def url_of(colour, size=(64, 64)):
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


@pytest.fixture(scope="module")
def servers(launch, tmp_path_factory):
    found = {}

    def server(level):
        if level not in found:
            folder = tmp_path_factory.mktemp(f"moderation-{level}")
            flags = ("--image-classifier", "colour", "--moderation-prompts")
            found[level] = launch(folder, *flags, models=MODELS.replace("LEVEL", level)).until_ready()
        return found[level]

    return server


@pytest.fixture
def blocking(servers):
    return servers("block")


@pytest.fixture
def client(blocking):
    with openai.OpenAI(base_url=f"{blocking.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_refused_prompt_in_openai_s_words(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a n u d e woman")
    found = caught.value
    assert (found.code, found.type, found.param) == ("moderation_blocked", "image_generation_user_error", "prompt")
    assert caught.value.body["message"].endswith("safety_violations=[sexual].")
    assert caught.value.body["moderation_details"] == {"moderation_stage": "input", "categories": ["sexual"]}


def test_a_refused_result_in_openai_s_words(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, extra_body={"seed": seed_of("red")})
    assert caught.value.body["moderation_details"] == {"moderation_stage": "output", "categories": ["sexual"]}
    assert client.images.generate(prompt=PROMPT, extra_body={"seed": seed_of("none")}).data


def test_a_refused_input_names_its_field(client, blocking):
    red = base64.b64decode(url_of("red").partition(",")[2])
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=("red.png", red), prompt=PROMPT)
    assert (caught.value.code, caught.value.param) == ("moderation_blocked", "image")
    answer = blocking.client.post("/api/generate", json={"prompt": PROMPT, "image": url_of("red")})
    assert answer.json()["error"] == {
        "code": "moderation_blocked",
        "message": "A picture of the request was rejected by this server's moderation. safety_violations=[sexual].",
        "param": "image",
        "retryable": False,
    }


def test_a_stream_ends_with_the_refusal_and_shows_nothing_before(client, blocking):
    with pytest.raises(openai.APIError, match="safety_violations"):
        list(client.images.generate(prompt="nude", stream=True))
    body = {"prompt": PROMPT, "seed": seed_of("red"), "previews": 3}
    text = blocking.client.post("/api/generate", json=body, headers={"accept": "text/event-stream"}).text
    events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert (events[0], events[-1]) == ("started", "error")
    assert "preview" not in events
    assert "progress" in events


@pytest.mark.parametrize(
    ("asked", "category"),
    [
        ({"prompt": "(n)(u:1.2)[d]e"}, "sexual"),
        ({"prompt": "a hand", "style_preset": "study"}, "sexual"),
        ({"prompt": "ACMEcorp"}, "policy"),
        ({"prompt": "[child:nude:2]"}, "sexual"),
    ],
)
def test_what_the_engine_would_read_is_what_counts(blocking, asked, category):
    answer = blocking.client.post("/api/generate", json=asked)
    assert answer.status_code == 400
    assert f"[{category}" in answer.json()["error"]["message"]


def test_harmless_prompts_and_allowed_phrases_pass(blocking):
    for body in ({"prompt": "Essex"}, {"prompt": "a nude beige wall"}, {"prompt": "a hand", "negative_prompt": "nude, nsfw"}):
        answer = blocking.client.post("/api/generate", json=body | {"seed": 1})
        assert answer.status_code in (200, 400), answer.text
        assert "prompt" not in str(answer.json().get("error", {}).get("param"))


def test_a_job_that_is_refused_ends_as_failed_with_the_code(blocking, until):
    accepted = blocking.client.post("/api/jobs", json={"prompt": "nude", "previews": 2})
    assert accepted.status_code == 202
    job_id = accepted.json()["id"]
    found = until(
        lambda: (view := blocking.client.get(f"/api/jobs/{job_id}").json())["state"] == "failed" and view, what="the refusal"
    )
    assert (found["error"]["code"], found["error"]["retryable"]) == ("moderation_blocked", False)
    assert found["moderation"] == [
        {"stage": "prompt", "action": "block", "by": "lists", "categories": ["sexual"], "image": None, "param": "prompt"}
    ]


def test_a_blurred_picture_is_delivered_and_told_of(servers):
    blurring = servers("blur")
    body = {"prompt": PROMPT, "seeds": [seed_of("none"), seed_of("red"), seed_of("blue")]}
    answer = blurring.client.post("/api/generate", json=body).json()
    assert [(note["image"], note["action"]) for note in answer["moderation"]] == [(1, "blur"), (2, "flag")]
    job = blurring.client.get(f"/api/jobs/{answer['id']}").json()
    assert job["moderation"] == answer["moderation"]


def test_the_audit_has_every_decision_but_plain_passes(blocking, tmp_path):
    marked = {"prompt": "a nude with a mark 4711"}
    blocking.client.post("/api/generate", json=marked)
    blocking.client.post("/api/generate", json={"prompt": "a massacre", "seed": 1})
    page = blocking.client.get("/api/moderation", params={"limit": 1}).json()
    assert len(page["data"]) == 1
    older = blocking.client.get("/api/moderation", params={"limit": 100, "cursor": page["next"]}).json()
    (row,) = [row for row in older["data"] if row["prompt"] == marked["prompt"]]
    assert (row["action"], row["stage"], row["reasons"]) == ("block", "prompt", ["sexual: nude at 2-6"])
    flags = blocking.client.get("/api/moderation", params={"action": "flag", "stage": "prompt"}).json()["data"]
    assert {row["action"] for row in flags} == {"flag"}
    assert blocking.client.get("/api/moderation", params={"cursor": "x"}).status_code == 400
    assert blocking.metric('aquatint_moderation_decisions_total{action="block",by="lists"') >= 1

    listed = CliRunner().invoke(main, ["moderation", "list", "--action", "block", "--home", str(blocking.home)])
    assert listed.exit_code == 0, listed.output
    assert row["job"] in listed.output
    assert "\tflag\t" not in listed.output


def test_plain_passes_are_numbers_by_day_and_stage(blocking, until):
    def prompts(**params):
        found = blocking.client.get("/api/moderation/passed", params=params)
        return sum(each["count"] for each in found.json()["data"] if each["stage"] == "prompt")

    before = prompts()
    assert blocking.client.post("/api/generate", json={"prompt": PROMPT, "seed": seed_of("none")}).status_code == 200
    until(lambda: prompts(tenant="local") > before, 60)
    assert prompts(tenant="nobody") == 0
    assert blocking.client.get("/api/moderation/passed", params={"limit": 0}).status_code == 400
    listed = CliRunner().invoke(main, ["moderation", "passed", "--home", str(blocking.home)])
    numbers = [line.split("\t") for line in listed.output.splitlines()]
    assert sum(int(number) for _, stage, number in numbers if stage == "prompt") > before


def test_the_command_says_what_lists_find(tmp_path):
    (tmp_path / "models.yaml").write_text(MODELS.replace("LEVEL", "off"))
    check = ["moderation", "check", "--models", str(tmp_path / "models.yaml")]
    found = CliRunner().invoke(main, [*check, "an ACME (nu)de"])
    assert found.output.splitlines() == ["policy\tacme*\tACME", "sexual\tnude\tnude", "block"]
    assert CliRunner().invoke(main, [*check, "Scunthorpe"]).output == "allow\n"


def test_moderations_by_the_official_client(client):
    one = client.moderations.create(input="a nude")
    assert (one.model, one.id[:5], len(one.results)) == ("omni-moderation-latest", "modr-", 1)
    (result,) = one.results
    assert result.flagged
    assert result.categories.sexual
    assert not result.categories.sexual_minors
    assert (result.category_scores.sexual, result.category_scores.violence) == (1.0, 0.0)
    assert result.category_applied_input_types.sexual == ["text"]
    several = client.moderations.create(input=["Essex", "acme", "a nude child"], model="text-moderation-latest")
    assert [each.flagged for each in several.results] == [False, True, True]
    assert not any(several.results[1].categories.model_dump().values())
    assert several.results[2].categories.sexual_minors


def test_moderations_of_parts_that_belong_together(client):
    parts = [{"type": "text", "text": "a schoolgirl"}, {"type": "image_url", "image_url": {"url": url_of("red")}}]
    (result,) = client.moderations.create(input=parts).results
    assert (result.categories.sexual, result.categories.sexual_minors) == (True, True)
    assert result.category_applied_input_types.sexual == ["image"]
    (harmless,) = client.moderations.create(input=[parts[0], {"type": "image_url", "image_url": {"url": url_of("gray")}}]).results
    assert not harmless.flagged


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": 3}, 400, "input"),
        ({"input": ["a"] * 33}, 400, "input"),
        ({"input": ["x" * 60_000] * 2}, 400, "input"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, 400, "input"),
        ({"input": [{"type": "sound"}]}, 400, "input"),
        ({"input": "a", "model": "gpt-4"}, 404, "model"),
        ({"input": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}, 400, "input[0].image_url.url"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}, 400, "input[0].image_url.url"),
    ],
)
def test_moderations_of_something_else(blocking, body, status, param):
    answer = blocking.client.post("/v1/moderations", content=json.dumps(body))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_what_a_policy_asks_for_and_cannot_have_is_told(launch, tmp_path):
    server = launch(tmp_path, "--image-classifier", "none", models=MODELS.replace("LEVEL", "block")).until_ready()
    told = server.ready()
    assert told["ready"]
    assert "AQUATINT_IMAGE_CLASSIFIER" in told["moderation"][0]
    assert "moderation is incomplete" in server.log.read_text()
    answer = server.client.post("/v1/images/generations", json={"prompt": "a cat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "moderation_unavailable")
    assert answer.headers["retry-after"]
    picture = [{"type": "image_url", "image_url": {"url": url_of("red")}}]
    assert server.client.post("/v1/moderations", json={"input": picture}).json()["error"]["code"] == "unsupported"
    (tmp_path / "models.yaml").write_text(MODELS.replace("LEVEL", "off"))


def test_only_the_operator_sees_the_audit(launch, tmp_path):
    made = CliRunner().invoke(main, ["keys", "create", "--tenant", "shop", "--home", str(tmp_path / "home")])
    assert made.exit_code == 0, made.output
    secret = made.output.strip()
    server = launch(tmp_path, models=MODELS.replace("LEVEL", "off")).until_ready()
    headers = {"authorization": f"Bearer {secret}"}
    assert server.client.get("/api/moderation").status_code == 401
    assert server.client.get("/api/moderation", headers=headers).status_code == 403
    assert server.client.post("/v1/moderations", json={"input": "a cat"}, headers=headers).status_code == 200
