"""The official client, sync and async, against a real server on a real port."""

import asyncio
import base64
import io

import httpx
import openai
import pytest
from PIL import Image


@pytest.fixture
def client(fake_server):
    with openai.OpenAI(base_url=f"{fake_server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def png(size=(128, 128), colour=(200, 30, 30), mode="RGB"):
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, "PNG")
    return target.getvalue()


def hole(size=(128, 128)):
    image = Image.new("RGBA", size, (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def opened(b64):
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_generates_b64_by_default(client):
    answer = client.images.generate(prompt="a red circle", model="demo")
    assert opened(answer.data[0].b64_json).size == (128, 128)
    assert answer.data[0].url is None
    assert (answer.output_format, answer.background, answer.size) == ("png", "opaque", "128x128")


def test_n_images_have_consecutive_seeds_and_differ(client):
    answer = client.images.generate(prompt="a red circle", n=3, extra_body={"seed": 2**64 - 1})
    assert [item.seed for item in answer.data] == [2**64 - 1, 0, 1]
    assert len({item.b64_json for item in answer.data}) == 3


def test_same_seed_same_image(client):
    extra = {"seed": 7, "cache": "off"}
    first, second = (client.images.generate(prompt="x", extra_body=extra).data[0].b64_json for _ in range(2))
    assert first == second


def test_dall_e_names_get_urls_that_can_be_fetched(client):
    answer = client.images.generate(prompt="a red circle", model="dall-e-3", size="128x192", quality="hd", style="vivid")
    item = answer.data[0]
    assert item.b64_json is None
    assert ".png?" in item.url
    fetched = httpx.get(item.url)
    assert fetched.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(fetched.content)).size == (128, 192)


@pytest.mark.parametrize(("form", "name"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_output_formats(client, form, name):
    extra = {} if form == "png" else {"output_compression": 60}
    answer = client.images.generate(prompt="x", model="gpt-image-1", output_format=form, **extra)
    assert opened(answer.data[0].b64_json).format == name
    assert answer.output_format == form


def test_png_carries_its_parameters(client):
    answer = client.images.generate(
        prompt="a red circle", extra_body={"seed": 5, "sampler": "Euler a", "negative_prompt": "blur"}
    )
    text = opened(answer.data[0].b64_json).text["parameters"]
    assert text.startswith("a red circle\nNegative prompt: blur\nSteps: 20, Sampler: euler_a,")
    assert "Seed: 5" in text


def test_edit_with_and_without_mask(client):
    plain = client.images.edit(image=png((100, 75)), prompt="a boat", model="demo", n=2)
    assert [opened(item.b64_json).size for item in plain.data] == [(104, 72), (104, 72)]
    masked = client.images.edit(image=png(), mask=hole(), prompt="a boat", size="128x128", extra_body={"steps": 4, "seed": 1})
    assert masked.data[0].seed == 1


def test_edit_takes_a_list_of_one(client):
    answer = client.images.edit(image=[("a.png", png(), "image/png")], prompt="a boat", response_format="url")
    assert answer.data[0].url


def test_models(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "aquatint"
    assert client.models.retrieve("dall-e-3").id == "dall-e-3"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/name")
    assert caught.value.code == "model_not_found"


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="x", size="127x1")
    assert (caught.value.param, caught.value.type) == ("size", "invalid_request_error")
    assert caught.value.request_id.startswith("req_")


async def test_async_client_many_at_once(fake_server):
    async with openai.AsyncOpenAI(base_url=f"{fake_server.url}/v1", api_key="unused") as client:
        answers = await asyncio.gather(
            *(
                client.images.generate(prompt=f"p{i}", n=1 + i % 2, extra_body={"steps": 2 + i, "guidance_scale": i % 3})
                for i in range(12)
            )
        )
    assert [len(answer.data) for answer in answers] == [1 + i % 2 for i in range(12)]


def test_stream_with_previews(client):
    events = list(
        client.images.generate(prompt="a red circle", stream=True, partial_images=2, size="128x64", extra_body={"steps": 12})
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(opened(event.b64_json).size == (128, 64) for event in events)
    assert len({event.b64_json for event in events}) == 3
    assert events[-1].usage.total_tokens == 0


def test_stream_without_previews_and_for_edits(client):
    events = list(client.images.edit(image=png(), prompt="a boat", stream=True, output_format="jpeg"))
    assert [event.type for event in events] == ["image_edit.completed"]
    assert opened(events[0].b64_json).format == "JPEG"


def test_a_refused_stream_is_an_ordinary_error(client):
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt="x", size="1x1", stream=True)


def test_edit_in_json(fake_server):
    body = {
        "prompt": "a boat",
        "images": [{"image_url": "data:image/png;base64," + base64.b64encode(png()).decode()}],
        "mask": {"image_url": "data:image/png;base64," + base64.b64encode(hole()).decode()},
    }
    answer = fake_server.client.post("/v1/images/edits", json=body)
    assert answer.status_code == 200
    assert opened(answer.json()["data"][0]["b64_json"]).size == (128, 128)
