"""The official client against our server, by the road to OpenAI and by our own: the same shapes."""

import base64
import io

import openai
import pytest
from PIL import Image, ImageDraw


def png(size=(128, 128), colour=(10, 200, 30), mode="RGB"):
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, "PNG")
    return target.getvalue()


def hole(size=(128, 128), box=(32, 32, 64, 64)):
    image = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(0, 0, 0, 0))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def opened(b64):
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def shape(answer):
    """Which fields an answer has, without what differs by road."""
    told = answer.model_dump(exclude_none=True, exclude={"usage"})
    return {**told, "created": 0, "data": [sorted(item.keys() - {"seed"}) for item in told["data"]]}


@pytest.mark.parametrize("form", [{}, {"response_format": "url"}, {"output_format": "jpeg", "output_compression": 70}, {"n": 3}])
def test_generations_have_the_same_shape_by_either_road(fresh, form):
    near, far = (
        fresh.client.images.with_raw_response.generate(prompt="a cat", model=model, size="128x128", quality="low", **form)
        for model in ("quick", "openai")
    )
    assert (near.headers["x-aquatint-route"], far.headers["x-aquatint-route"]) == ("local", "openai")
    assert shape(near.parse()) == shape(far.parse())
    assert near.parse().usage is None
    assert far.parse().usage.output_tokens == 196 * form.get("n", 1)
    if not form.get("response_format"):
        assert {opened(item.b64_json).size for item in far.parse().data} == {(128, 128)}


def test_what_is_sent_there(fresh):
    fresh.client.images.generate(prompt="a cat", model="dall-e-3", size="1536x864", quality="hd", output_format="webp")
    (sent,) = fresh.double.ledger["requests"]
    assert sent.pop("key").startswith("aquatint-")
    assert sent == {
        "kind": "image_generation",
        "model": "gpt-image-2.6-flare",
        "prompt": "a cat",
        "n": 1,
        "size": "1536x864",
        "quality": "high",
        "output_format": "webp",
    }


def test_a_model_behind_the_name_has_its_own_sizes(fresh):
    answer = fresh.client.images.generate(prompt="a cat", model="old", size="640x384", quality="max")
    (sent,) = fresh.double.ledger["requests"]
    assert (sent["model"], sent["size"], sent["quality"]) == ("gpt-image-1.5", "1536x1024", "high")
    assert opened(answer.data[0].b64_json).size == (640, 384)


def test_edits_have_the_same_shape_by_either_road(fresh):
    near, far = (
        fresh.client.images.edit(image=png(), mask=hole(), prompt="a boat", model=model, size="128x128")
        for model in ("quick", "openai")
    )
    assert shape(near) == shape(far)
    (sent,) = fresh.double.ledger["requests"]
    assert (sent["kind"], sent["image"]["size"], sent["mask"]["size"]) == ("image_edit", [816, 816], [816, 816])
    assert sent["mask"]["clear"] == pytest.approx(816 * 816 / 16, rel=0.05), "transparent is what may be repainted"
    left, top, right, bottom = sent["mask"]["box"]
    assert (left, top, right, bottom) == pytest.approx((204, 204, 408, 408), abs=8)


def test_what_a_mask_keeps_is_the_pictures_own(fresh):
    answer = fresh.client.images.edit(image=png(), mask=hole(), prompt="a boat", model="openai", size="128x128")
    picture = opened(answer.data[0].b64_json).convert("RGB")
    assert picture.getpixel((5, 5)) == (10, 200, 30)
    assert picture.getpixel((48, 48)) == (200, 40, 40)


def test_an_edit_on_a_fixed_canvas_is_cut_out_again(fresh):
    answer = fresh.client.images.edit(image=png((192, 64)), prompt="a boat", model="openai/gpt-image-1-mini", size="192x64")
    (sent,) = fresh.double.ledger["requests"]
    assert (sent["size"], sent["image"]["size"]) == ("1536x1024", [1536, 1024])
    assert opened(answer.data[0].b64_json).size == (192, 64)


def test_streams_have_the_same_events_by_either_road(fresh):
    def events(model, **more):
        return list(fresh.client.images.generate(prompt="a cat", model=model, stream=True, size="128x128", **more))

    near, far = (events(model, partial_images=2) for model in ("quick", "openai"))
    assert [event.type for event in near] == [event.type for event in far]
    assert [event.partial_image_index for event in far[:-1]] == [0, 1]
    assert len({event.b64_json for event in far}) == 3
    assert {opened(event.b64_json).size for event in far} == {(128, 128)}
    assert (near[-1].usage.total_tokens, far[-1].usage.output_tokens) == (0, 196)
    assert [event.type for event in events("openai")] == ["image_generation.completed"]
    asked = [(each.get("stream"), each.get("partial_images")) for each in fresh.double.ledger["requests"]]
    assert asked == [(True, 2), (None, None)]


def test_a_streamed_edit(fresh):
    events = list(fresh.client.images.edit(image=png(), prompt="a boat", model="openai", stream=True, partial_images=1))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_transparency(fresh):
    answer = fresh.client.images.generate(prompt="a cat", model="openai", background="transparent", size="128x128")
    picture = opened(answer.data[0].b64_json)
    assert (answer.background, picture.mode, picture.getchannel("A").getextrema()) == ("transparent", "RGBA", (0, 255))
    with pytest.raises(openai.BadRequestError) as caught:
        fresh.client.images.generate(prompt="a cat", model="openai", background="transparent", output_format="jpeg")
    assert caught.value.param == "background"
    with pytest.raises(openai.BadRequestError):
        fresh.client.images.generate(prompt="a cat", model="quick", background="transparent")


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("seed", 0),
        ("steps", 9),
        ("sampler", "euler"),
        ("guidance_scale", 3.0),
        ("negative_prompt", "blur"),
        ("loras", ["paper"]),
        ("controls", [{"name": "canny", "image": "data:image/png;base64," + base64.b64encode(png()).decode()}]),
        ("hires", {"scale": 2}),
        ("refiner", "quick"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(fresh, param, value):
    with pytest.raises(openai.BadRequestError) as caught:
        fresh.client.images.generate(prompt="a cat", model="openai", extra_body={param: value})
    assert (caught.value.param, caught.value.code) == (param, "unsupported")
    assert fresh.double.ledger["attempts"] == 0


def test_a_mask_that_must_be_exact_is_refused_by_name(fresh):
    with pytest.raises(openai.BadRequestError) as caught:
        fresh.client.images.edit(image=png(), mask=hole(), prompt="x", model="openai", extra_body={"mask_soft": "true"})
    assert caught.value.param == "mask_soft"


def test_auto_is_ours_as_long_as_nobody_routes(fresh):
    answer = fresh.client.images.with_raw_response.generate(prompt="a cat", model="gpt-image-1", extra_body={"seed": 3})
    assert (answer.headers["x-aquatint-route"], answer.parse().data[0].seed) == ("local", 3)


def test_the_native_dialect_tells_the_route(fresh):
    told = fresh.server.client.post("/api/generate", json={"prompt": "a cat", "model": "openai", "size": "256x128"}).json()
    assert (told["route"]["road"], told["route"]["model"], told["size"]) == ("openai", "gpt-image-2.6-flare", "256x128")
    assert told["route"]["request_ids"][0].startswith("req_double_")
    near = fresh.server.client.post("/api/generate", json={"prompt": "a cat"}).json()
    assert near["route"] == {
        "road": "local",
        "model": "quick",
        "reasons": ["the model runs here"],
        "tried": [],
        "request_ids": [],
    }
    refused = fresh.server.client.post("/api/generate", json={"prompt": "a cat", "model": "openai", "seeds": [1]}).json()
    assert refused["error"]["param"] == "seeds"
    larger = {"prompt": "a cat", "model": "openai", "size": "512x256", "upscale": {"scale": 2, "enlarger": "lanczos"}}
    assert fresh.server.client.post("/api/generate", json=larger).json()["images"][0]["width"] == 1024


def test_a_job_tells_the_route(fresh, until):
    accepted = fresh.server.client.post("/api/jobs", json={"prompt": "a cat", "model": "openai"}).json()
    job = until(lambda: (j := fresh.server.client.get(f"/api/jobs/{accepted['id']}").json())["state"] == "succeeded" and j)
    assert job["route"]["road"] == "openai"


def test_models_are_listed(fresh):
    ids = [model.id for model in fresh.client.models.list()]
    assert ids[:3] == ["quick", "openai", "openai/gpt-image-2.6-flare"]
    assert fresh.client.models.retrieve("openai/gpt-image-2").owned_by == "openai"
    with pytest.raises(openai.NotFoundError):
        fresh.client.images.generate(prompt="x", model="openai/gpt-5")
    told = fresh.server.client.get("/api/models").json()["upstreams"]
    assert [(each["name"], each["aliases"]) for each in told] == [("openai", ["dall-e-3", "old"]), ("hasty", [])]
    assert fresh.server.client.get("/api/models/openai").status_code == 404
