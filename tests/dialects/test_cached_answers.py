"""The cache over HTTP: real servers, the official client, the fake device."""

import asyncio
import json

import httpx
import openai
import pytest

MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: euler}}
  slow: {source: "fake:?tick=0.25", family: fake, defaults: {width: 64, height: 64, steps: 40, sampler: euler}}
"""
HEADER = "x-aquatint-cache"
NATIVE, OPENAI = "/api/generate", "/v1/images/generations"


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    return launch(tmp_path_factory.mktemp("cache"), models=MODELS).until_ready()


def told(answer):
    assert answer.status_code == 200, answer.text
    return answer.headers[HEADER]


@pytest.mark.parametrize("route", [NATIVE, OPENAI])
def test_the_same_request_is_answered_from_the_cache(server, route):
    body = {"prompt": f"twice {route}", "seed": 1, "response_format": "url"}
    answers = [server.client.post(route, json=body) for _ in range(2)]
    assert [told(answer) for answer in answers] == ["miss", "hit"]
    urls = [answer.json()["images" if route == NATIVE else "data"][0]["url"] for answer in answers]
    assert urls[0] != urls[1]
    assert server.client.get(urls[0]).content == server.client.get(urls[1]).content


def test_both_dialects_share_one_cache(server):
    asked = {"prompt": "shared words", "seed": 3, "steps": 4}
    assert told(server.client.post(NATIVE, json=asked)) == "miss"
    assert told(server.client.post(OPENAI, json={**asked, "n": 1, "response_format": "url"})) == "hit"


def test_what_the_answer_says_of_a_hit(server):
    body = {"prompt": "told", "seed": 1}
    made, found = (server.client.post(NATIVE, json=body).json() for _ in range(2))
    assert (made["cache"], made["evaluations"]) == ("miss", 8)
    assert (found["cache"], found["evaluations"], found["timings"]["denoise"]) == ("hit", 0, 0)
    view = server.client.get(f"/api/jobs/{found['id']}").json()
    assert (view["state"], view["cache"], view["evaluations"], view["seeds"]) == ("succeeded", "hit", 0, [1])
    page = server.client.get("/api/jobs", params={"limit": 2}).json()["data"]
    assert [job["id"] for job in page] == [found["id"], made["id"]]
    assert server.client.delete(f"/api/jobs/{found['id']}").status_code == 204


def test_without_a_seed_every_picture_is_new_unless_any_will_do(server):
    body = {"prompt": "unseeded"}
    assert [told(server.client.post(NATIVE, json=body)) for _ in range(2)] == ["off", "off"]
    answers = [server.client.post(route, json={**body, "cache": "any"}) for route in (NATIVE, NATIVE, OPENAI)]
    assert [told(answer) for answer in answers] == ["miss", "hit", "hit"]
    assert len({str(answers[index].json()["seeds"]) for index in (0, 1)}) == 1
    assert told(server.client.post(NATIVE, json={**body, "seed": 5, "cache": "any"})) == "hit"
    assert told(server.client.post(NATIVE, json={**body, "seed": 5, "cache": "off"})) == "off"
    refused = server.client.post(NATIVE, json={**body, "cache": "perhaps"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cache")


def test_jobs_streams_and_events_tell_too(server, until):
    body = {"prompt": "followed", "seed": 4}
    with server.client.stream("POST", NATIVE, json=body, headers={"Accept": "text/event-stream"}) as first:
        assert HEADER not in first.headers  # nobody knows yet
        assert '"cache":"miss"' in first.read().decode().split("event: finished")[1]
    with server.client.stream("POST", NATIVE, json=body, headers={"Accept": "text/event-stream"}) as second:
        assert second.headers[HEADER] == "hit"
        assert '"cache":"hit"' in second.read().decode().split("event: finished")[1]
    streamed = server.client.post(OPENAI, json={**body, "stream": True})
    assert streamed.headers[HEADER] == "hit"
    assert json.loads(streamed.text.split("data: ")[1])["cache"] == "hit"
    job_id = server.client.post("/api/jobs", json=body).json()["id"]
    view = until(lambda: (found := server.client.get(f"/api/jobs/{job_id}").json())["state"] == "succeeded" and found)
    assert view["cache"] == "hit"
    events = server.client.get(f"/api/jobs/{job_id}/events").text
    assert '"cache":"hit"' in events.split("event: finished")[1]
    assert server.metric('aquatint_cache_requests_total{result="hit"') >= 3


def test_an_edit_of_the_model_or_of_weights_makes_new_pictures(serve, until):
    server = serve(models=MODELS).until_ready()
    path = server.home.parent / "models.yaml"
    body = {"prompt": "edited", "seed": 1, "steps": 2}
    assert [told(server.client.post(NATIVE, json=body)) for _ in range(2)] == ["miss", "hit"]
    path.write_text(MODELS.replace('"fake:"', '"fake:?tick=0.001"'))
    until(lambda: "tick=0.001" in server.client.get("/api/models").text, what="the edit")
    assert told(server.client.post(NATIVE, json=body)) == "miss"
    path.write_text(MODELS.replace("steps: 4,", "steps: 5,"))
    until(lambda: "tick=0.001" not in server.client.get("/api/models").text, what="the second edit")
    assert told(server.client.post(NATIVE, json=body)) == "hit"


def test_it_outlives_a_restart_and_pictures_of_other_keys_are_not_given(launch, tmp_path):
    keys = {"AQUATINT_API_KEYS": "first-key,second-key"}
    first, second = ({"Authorization": f"Bearer {key}"} for key in ("first-key", "second-key"))
    body = {"prompt": "mine", "seed": 1}
    server = launch(tmp_path, models=MODELS, env=keys).until_ready()
    assert told(server.client.post(NATIVE, json=body, headers=first)) == "miss"
    assert server.stop() == 0
    server = launch(tmp_path, models=MODELS, env=keys).until_ready()
    assert told(server.client.post(NATIVE, json=body, headers=second)) == "miss"
    assert told(server.client.post(NATIVE, json=body, headers=first)) == "hit"
    assert server.stop() == 0
    server = launch(tmp_path, "--cache-shared", models=MODELS, env=keys).until_ready()
    assert [told(server.client.post(NATIVE, json=body, headers=key)) for key in (first, second)] == ["miss", "hit"]


def test_switched_off_nothing_is_kept(serve):
    server = serve("--cache-bytes", "0", models=MODELS).until_ready()
    body = {"prompt": "off", "seed": 1}
    assert [told(server.client.post(NATIVE, json=body)) for _ in range(2)] == ["off", "off"]


async def test_eight_identical_requests_are_one_run_and_one_that_leaves_takes_nobody_along(server, until):
    def evaluations():
        return server.metric('aquatint_tick_evaluations_total{phase="denoise"')

    before = evaluations()
    asked = {"prompt": "the same for all", "model": "slow", "extra_body": {"seed": 77, "guidance_scale": 1.0}}
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        images = client.images.with_raw_response
        tasks = [asyncio.create_task(images.generate(response_format="url", **asked)) for _ in range(8)]
        await asyncio.to_thread(until, lambda: server.metric("aquatint_queue_images") == 8, what="eight in the queue")
        tasks[0].cancel()  # hangs up
        await asyncio.to_thread(until, lambda: server.metric("aquatint_queue_images") == 7, what="seven left")
        answers = await asyncio.gather(*tasks[1:])
    ways = sorted(answer.headers[HEADER] for answer in answers)
    assert ways in (["miss"] + ["shared"] * 6, ["shared"] * 7)  # the one that left may have been the first
    urls = {answer.parse().data[0].url for answer in answers}
    assert len(urls) == 7
    async with httpx.AsyncClient() as client:
        files = {(await client.get(url)).content for url in urls}
    assert len(files) == 1
    await asyncio.to_thread(until, lambda: evaluations() - before >= 40, what="the last tick's count")
    assert evaluations() - before == 40
