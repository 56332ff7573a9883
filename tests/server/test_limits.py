"""How much each tenant may ask for."""

import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.limits import Allowances, Bucket, Rate
from server.api.ratelimits import duration
from server.catalog.allowances import Limits
from server.domain.clock import SetClock
from server.domain.failures import QuotaSpent, RateLimited
from server.telemetry.metrics import Metrics


class Granting:
    """Quotas in memory."""

    def __init__(self):
        self.taken = 0

    async def take(self, _tenant, images, most, _now):
        if self.taken + images > most:
            return False
        self.taken += images
        return True


@pytest.fixture
def clock():
    return SetClock(1_795_000_000.0)


def allowances(clock, **limits):
    return Allowances(lambda _tenant: Limits(**limits), Granting(), clock, Metrics())


def test_a_bucket_gives_its_tokens_and_they_come_back_evenly(clock):
    bucket = Bucket(6, clock.monotonic())
    assert [bucket.take(clock.monotonic()) for _ in range(6)] == [0.0] * 6
    assert bucket.take(clock.monotonic()) == 10.0
    assert bucket.rate(clock.monotonic()) == Rate(6, 0, 60.0)
    clock.advance(10)
    assert bucket.take(clock.monotonic()) == 0.0
    assert bucket.take(clock.monotonic()) > 0
    clock.advance(3600)
    assert bucket.rate(clock.monotonic()) == Rate(6, 6, 0.0)


@given(limit=st.integers(1, 600), pauses=st.lists(st.floats(-5, 30), max_size=200))
def test_no_minute_sees_more_than_twice_the_limit_nor_the_whole_more_than_its_share(limit, pauses):
    now, passed, taken = 0.0, 0.0, 0
    bucket = Bucket(limit, now)
    for pause in pauses:
        now += pause
        passed += max(0.0, pause)
        wait = bucket.take(now)
        taken += wait == 0.0
        assert 0.0 <= wait <= 60.0 / limit + 1e-6
    assert taken <= limit + passed * limit / 60 + 1


def test_tenants_do_not_share(clock):
    own = allowances(clock, requests_per_minute=1)
    own.request("a")
    with pytest.raises(RateLimited) as caught:
        own.request("a")
    assert caught.value.retry_after == pytest.approx(60.0)
    own.request("b")
    assert own.rate("a") == Rate(1, 0, 60.0)
    assert allowances(clock).rate("a") is None


def test_company_is_bounded_and_an_idle_tenant_may_ask_for_more_at_once(clock):
    own = allowances(clock, concurrent_images=4)
    own.company("a", 9, 0, 1.0)
    own.company("a", 2, 2, 1.0)
    with pytest.raises(RateLimited) as caught:
        own.company("a", 3, 2, 7.0)
    assert caught.value.retry_after == 7.0
    allowances(clock).company("a", 99, 99, 1.0)


async def test_what_is_left_of_a_day_comes_back_at_midnight(clock):
    own = allowances(clock, images_per_day=3)
    await own.day("a", 2)
    with pytest.raises(QuotaSpent) as caught:
        await own.day("a", 2)
    assert (clock.time() + caught.value.retry_after) % 86_400 == 0
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.02, "20ms"), (0, "0ms"), (1, "1s"), (59.6, "1m0s"), (360, "6m0s"), (3600, "1h0m0s"), (3725, "1h2m5s")],
)
def test_durations_read_as_openai_writes_them(seconds, text):
    assert duration(seconds) == text


MODELS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2}, limits: {max_images: 4}}}
tenants: {local: {limits: {requests_per_minute: 3, images_per_day: 4}}}
"""


def test_over_http_a_limit_is_a_429_that_clients_understand(serve):
    server = serve(models=MODELS).until_ready()
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    first = client.images.with_raw_response.generate(prompt="a cat", model="m")
    assert first.headers["x-ratelimit-limit-requests"] == "3"
    assert first.headers["x-ratelimit-remaining-requests"] in ("2", "3")
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt="a cat", model="m", n=4)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false", "not before tomorrow"
    answers = [server.client.post("/api/generate", json={"prompt": "p"}) for _ in range(4)]
    refused = next(answer for answer in answers if answer.status_code != httpx.codes.OK)
    assert refused.status_code == httpx.codes.TOO_MANY_REQUESTS
    assert (refused.json()["error"]["code"], refused.json()["error"]["retryable"]) == ("rate_limit_exceeded", True)
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-ratelimit-limit-requests" not in server.client.get("/api/models").headers


DAY = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2}, limits: {max_images: 4}}}
tenants: {local: {limits: {requests_per_minute: 10, images_per_day: 5}}}
"""


def test_a_batch_is_one_request_and_all_its_images_are_of_today(serve):
    client = serve(models=DAY).until_ready().client

    def hand_in(lines, key):
        file = "".join(json.dumps({"custom_id": str(n), "body": {"prompt": "p", "seeds": [1, 2]}}) + "\n" for n in range(lines))
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        return client.post("/api/batches", content=file, headers=headers)

    refused = hand_in(3, "too-many")
    assert (refused.status_code, refused.json()["error"]["retryable"]) == (429, False), "not before tomorrow"
    assert client.get("/api/batches").json()["data"] == []
    first = hand_in(2, "fits")
    assert first.status_code == httpx.codes.ACCEPTED
    assert hand_in(2, "fits").json()["id"] == first.json()["id"]
    assert hand_in(1, "fits-no-more").json()["error"]["retryable"] is False
    assert client.post("/api/generate", json={"prompt": "p"}).status_code == httpx.codes.OK, "one is left"
    errors = (hand_in(1, f"too-often-{n}").json()["error"] for n in range(30))
    assert "10 requests in a minute" in next(error["message"] for error in errors if error["retryable"])
    assert first.headers["x-ratelimit-limit-requests"] == "10"
