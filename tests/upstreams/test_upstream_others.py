"""Stability and Replicate: their doubles, and our providers before them."""

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipelines.contract.inpainting import Margins
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.catalog.upstreams import Kind, Timeouts, Upstream, completed
from server.domain.call import Call
from server.domain.clock import SystemClock
from server.domain.failures import (
    ModerationBlocked,
    UpstreamAmbiguous,
    UpstreamBusy,
    UpstreamFailure,
    UpstreamMisconfigured,
    UpstreamModelGone,
    UpstreamUnavailable,
)
from server.domain.generation import LOCAL
from server.domain.wishes import Wishes
from server.egress.fetching import Fetcher
from server.providers.capabilities import lacking
from server.providers.each import Each
from server.providers.paid import Free
from server.providers.replicate import ReplicateProvider
from server.providers.stability import StabilityProvider
from server.providers.succession import Succession
from server.telemetry.logs import silent

PHOTO = Picture(128, 96, "RGB", os.urandom(128 * 96 * 3))
MASK = Picture(128, 96, "L", b"\xff" * (128 * 48) + b"\0" * (128 * 48))
KEYS = {"STABILITY_API_KEY": "k", "REPLICATE_API_TOKEN": "k"}
CLOCK = SystemClock()


def upstream(kind, url, **fields):
    made = Upstream(kind.value, kind, base_url=url, timeouts=Timeouts(connect=5, attempt=10, total=20), **fields)
    return completed(made, KEYS)


def request(model, prompt="a cat", size=(128, 96), seeds=(7,), **fields):
    return ImageRequest("r", model, prompt, *size, seeds, Sampling("euler", 20, 1.0), **fields)


async def quickly(_seconds):
    await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def stability_double(doubles):
    return doubles("stability")


@pytest.fixture(scope="module")
def replicate_double(doubles):
    return doubles("replicate")


async def ask(double, asked, *said, kind=Kind.STABILITY, **fields):
    """One generation, and the ledger after it."""
    double.tell("reset")
    road = upstream(kind, double.url, **fields)
    succession = Succession(road, CLOCK, silent())
    if kind is Kind.STABILITY:
        source = StabilityProvider(road, "k", succession=succession, clock=CLOCK, sleep=quickly)
    else:
        fetcher = Fetcher(road.base_url, road.file_hosts)
        source = ReplicateProvider(road, "k", succession=succession, fetcher=fetcher, clock=CLOCK, sleep=quickly)
    try:
        made = await Each(Free(source)).generate(asked, Call("r", wishes=Wishes(said=said)))
    finally:
        await source.close()
    return made, double.ledger


INIT = Init(PHOTO, strength=0.4)


@pytest.mark.parametrize(
    ("asked", "operation", "fields"),
    [
        (request(LOCAL), "generate/ultra", {"aspect_ratio": "5:4"}),
        (request("stability/core", size=(1920, 1088)), "generate/core", {"aspect_ratio": "16:9"}),
        (request("stability/sd3.5-medium"), "generate/sd3", {"model": "sd3.5-medium"}),
        (request(LOCAL, init=INIT), "generate/ultra", {"strength": "0.4", "image": [128, 96]}),
        (request("stability/sd3.5-large", init=INIT), "generate/sd3", {"mode": "image-to-image", "strength": "0.4"}),
        (request(LOCAL, init=replace(INIT, mask=MASK)), "edit/inpaint", {"mask": [128, 96], "grow_mask": "0"}),
        (request(LOCAL, prompt="", init=replace(INIT, mask=MASK)), "edit/erase", {"mask": [128, 96]}),
        (
            request(LOCAL, size=(192, 96), init=replace(INIT, outpaint=Margins(right=64))),
            "edit/outpaint",
            {"right": "64", "image": [128, 96]},
        ),
        (request("stability/structure", init=INIT), "control/structure", {"control_strength": "0.4"}),
        (request("stability/style", init=INIT), "control/style", {"fidelity": "0.4"}),
        (request("stability/fast", prompt="", init=INIT, size=(512, 384)), "upscale/fast", {"image": [128, 96]}),
        (request(LOCAL, prompt="", init=replace(INIT, strength=0.0), size=(512, 384)), "upscale/fast", {"image": [128, 96]}),
        (request("stability/creative", init=INIT), "upscale/creative", {"creativity": "0.4"}),
    ],
)
async def test_each_request_has_its_operation(stability_double, asked, operation, fields):
    made, ledger = await ask(stability_double, asked, "seed", "strength")
    (sent,) = ledger["requests"]
    assert sent["operation"] == operation
    assert {name: sent[name] for name in fields} == fields
    (picture,) = made.pictures
    assert (picture.width, picture.height) == (asked.width, asked.height)
    assert made.seeds == ((7,) if "seed" in sent or operation.endswith("creative") else made.seeds)
    assert made.route.model == operation
    assert ledger["polls"] == (3 if operation == "upscale/creative" else 0)


async def test_several_images_are_several_requests(stability_double):
    made, ledger = await ask(stability_double, request(LOCAL, seeds=(3, 4, 5)), "seed")
    assert (made.seeds, ledger["charged"], len(made.pictures)) == ((3, 4, 5), 3, 3)


@pytest.mark.parametrize(
    ("fault", "error", "charged"),
    [
        ("429", UpstreamBusy, 0),
        ("500", UpstreamUnavailable, 0),
        ("moderation", ModerationBlocked, 0),
        ("filtered", ModerationBlocked, 1),
        ("credit", UpstreamMisconfigured, 0),
        ("key", UpstreamMisconfigured, 0),
        ("reset", UpstreamAmbiguous, 1),
        ("not-a-picture", UpstreamAmbiguous, 1),
    ],
)
async def test_faults_of_stability(stability_double, fault, error, charged):
    with pytest.raises(error) as caught:
        await ask(stability_double, request(LOCAL, prompt=f"[fault:{fault}]"))
    assert type(caught.value) is error
    assert (stability_double.ledger["attempts"], stability_double.ledger["charged"]) == (1, charged)


async def test_a_retired_model_has_a_successor_everywhere(stability_double, replicate_double):
    gone = "[fault:gone*2]"
    made, ledger = await ask(stability_double, request(LOCAL, prompt=gone), model="sd4", successors=("ultra", "core"))
    assert [each["operation"] for each in ledger["requests"]] == ["generate/sd4", "generate/ultra", "generate/core"]
    assert made.route.model == "generate/core"
    made, ledger = await ask(
        replicate_double, request(LOCAL, prompt=gone), kind=Kind.REPLICATE, model="a/x", successors=("a/y", "a/z")
    )
    assert [each["path"].split("/")[4] for each in ledger["requests"]] == ["x", "y", "z"]
    assert (made.route.model, ledger["charged"]) == ("a/z", 1)


async def test_an_address_that_is_gone_is_no_model_that_is(stability_double):
    asked = request(LOCAL, prompt="x [fault:gone*2]", init=replace(INIT, mask=MASK))
    with pytest.raises(UpstreamMisconfigured) as caught:
        await ask(stability_double, asked, model="ultra", successors=("core",))
    assert type(caught.value) is UpstreamMisconfigured
    assert stability_double.ledger["attempts"] == 1
    with pytest.raises(UpstreamModelGone):
        await ask(stability_double, request("stability/core", prompt="[fault:gone]"), model="ultra", successors=("sd3.5-large",))


SDXL = {"model": "stability-ai/sdxl:" + "0" * 64} | {
    "inputs": {name: name for name in ("prompt", "seed", "width", "height", "image", "mask", "negative_prompt")}
    | {"steps": "num_inference_steps", "strength": "prompt_strength"}
}


async def test_a_prediction_is_waited_for(replicate_double):
    made, ledger = await ask(replicate_double, request(LOCAL, size=(1024, 576)), kind=Kind.REPLICATE)
    (sent,) = ledger["requests"]
    assert sent["path"] == "/v1/models/black-forest-labs/flux-schnell/predictions"
    assert (sent["prefer"], sent["input"]) == ("wait=2", {"prompt": "a cat", "aspect_ratio": "16:9", "seed": 7})
    assert (made.pictures[0].width, made.pictures[0].height) == (1024, 576)
    assert made.usage.gpu_seconds == 1.5


async def test_a_slow_prediction_is_looked_at_until_it_is_over(replicate_double):
    _, ledger = await ask(replicate_double, request(LOCAL, prompt="slow"), kind=Kind.REPLICATE)
    assert (ledger["attempts"], ledger["polls"], ledger["charged"]) == (1, 2, 1)


async def test_a_models_own_names_for_its_inputs(replicate_double):
    asked = request(LOCAL, negative_prompt="blur", init=replace(INIT, mask=MASK))
    made, ledger = await ask(replicate_double, asked, "steps", "strength", kind=Kind.REPLICATE, **SDXL)
    (sent,) = ledger["requests"]
    assert (sent["path"], sent["version"]) == ("/v1/predictions", "0" * 64)
    told = sent["input"]
    assert (told["num_inference_steps"], told["prompt_strength"], told["negative_prompt"]) == (20, 0.4, "blur")
    assert told["image"].startswith("data:image/png;base64,")
    assert told["mask"].startswith("data:image/png;base64,")
    assert len(made.pictures) == 1


async def test_a_picture_inside_the_answer(replicate_double):
    made, _ = await ask(replicate_double, request(LOCAL, prompt="[fault:data]", size=(1024, 1024)), kind=Kind.REPLICATE)
    assert (made.pictures[0].width, made.pictures[0].file[:4]) == (1024, b"\x89PNG")


async def test_cancelling_before_the_prediction_has_a_name_cancels_it_too(replicate_double, until):
    replicate_double.tell("reset")
    task = asyncio.create_task(ask(replicate_double, request(LOCAL, prompt="endless [fault:waited]"), kind=Kind.REPLICATE))
    await asyncio.to_thread(until, lambda: replicate_double.ledger["charged"] == 1, what="the prediction's beginning")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger = await asyncio.to_thread(lambda: replicate_double.ledger)
    assert (ledger["polls"], ledger["cancelled"]) == (0, 1), "closing waits for it"


async def test_cancelling_cancels_there(replicate_double, until):
    replicate_double.tell("reset")  # what the tests before have asked for is not ours
    task = asyncio.create_task(ask(replicate_double, request(LOCAL, prompt="endless"), kind=Kind.REPLICATE))
    while not (await asyncio.to_thread(lambda: replicate_double.ledger))["polls"]:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: replicate_double.ledger["cancelled"] == 1, what="the cancelling to be heard of")


@pytest.mark.parametrize(
    ("fault", "error", "charged"),
    [
        ("429", UpstreamBusy, 0),
        ("500", UpstreamUnavailable, 0),
        ("credit", UpstreamMisconfigured, 0),
        ("key", UpstreamMisconfigured, 0),
        ("gone", UpstreamModelGone, 0),
        ("failed", UpstreamFailure, 1),
        ("moderation", ModerationBlocked, 1),
        ("text", UpstreamAmbiguous, 1),
        ("data-broken", UpstreamAmbiguous, 1),
        ("url-broken", UpstreamAmbiguous, 1),
        ("foreign-host", UpstreamAmbiguous, 1),
    ],
)
async def test_faults_of_replicate(replicate_double, fault, error, charged):
    with pytest.raises(error) as caught:
        await ask(replicate_double, request(LOCAL, prompt=f"[fault:{fault}]"), kind=Kind.REPLICATE)
    assert type(caught.value) is error
    assert (replicate_double.ledger["attempts"], replicate_double.ledger["charged"]) == (1, charged)


def test_only_expected_hosts_are_fetched_from():
    fetcher = Fetcher("http://127.0.0.1:8000/v1", ("replicate.delivery", ".replicate.delivery"))
    allowed = ["http://127.0.0.1:8000/files/a.png", "https://replicate.delivery/x", "https://pbxt.replicate.delivery/x"]
    refused = [
        "http://127.0.0.1:8001/files/a.png",
        "http://pbxt.replicate.delivery/x",
        "https://replicate.delivery.evil.example/x",
        "https://evilreplicate.delivery/x",
        "https://user@replicate.delivery/x",
        "https://replicate.delivery:8443/x",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "not a url",
        "https://[::1",
    ]
    assert [url for url in allowed + refused if fetcher.allows(url)] == allowed


# What an upstream cannot do


OPENAI = completed(Upstream("openai", Kind.OPENAI), {"OPENAI_API_KEY": "k"})
STABILITY = upstream(Kind.STABILITY, "http://x")
REPLICATE = upstream(Kind.REPLICATE, "http://x")


@pytest.mark.parametrize(
    ("road", "asked", "said", "found"),
    [
        (OPENAI, request(LOCAL), (), ()),
        (OPENAI, request(LOCAL), ("seed", "steps"), ("seed", "steps")),
        (OPENAI, request(LOCAL, init=replace(INIT, mask=MASK)), ("mask_blur", "keep_unmasked"), ()),
        (OPENAI, request(LOCAL, init=INIT), ("strength",), ("strength",)),
        (OPENAI, request(LOCAL, seeds=tuple(range(11))), (), ("n",)),
        (STABILITY, request(LOCAL), ("seed", "negative_prompt"), ()),
        (STABILITY, request(LOCAL), ("guidance",), ("guidance",)),
        (STABILITY, request("stability/sd3.5-large"), ("guidance_scale",), ()),
        (STABILITY, request("stability/core", init=INIT), (), ("image",)),
        (STABILITY, request("stability/sketch"), (), ("image",)),
        (OPENAI, request(LOCAL, init=replace(INIT, strength=0.0)), (), ("upscale",)),
        (STABILITY, request(LOCAL, init=replace(INIT, strength=0.0)), (), ()),
        (REPLICATE, request(LOCAL, init=replace(INIT, mask=MASK)), ("seed",), ("image", "mask")),
        (REPLICATE, request(LOCAL), ("negative_prompt", "sampler"), ("negative_prompt", "sampler")),
    ],
)
def test_what_is_lacking(road, asked, said, found):
    model = road.means(asked.model) or road.model
    assert lacking(road, model, asked, Wishes(said=said)) == found


@settings(deadline=None)
@given(st.sampled_from([OPENAI, STABILITY, REPLICATE]), st.lists(st.sampled_from(["loras", "controls", "seed", "x", "output"])))
def test_what_is_lacking_is_named_once_and_was_said(road, said):
    found = lacking(road, road.model, request(LOCAL), Wishes(said=tuple(said)))
    assert len(set(found)) == len(found)
    assert set(found) <= set(said)
