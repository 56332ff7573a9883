"""POST /api/generate, /api/assets and GET /api/adapters on a real server with a fake device."""

import base64
import io
import json

import httpx
import openai
import pytest
from PIL import Image

GENERATE = "/api/generate"

MODELS = """
server: {default_model: quick}
models:
  quick:
    source: "fake:"
    family: fake
    defaults: {width: 64, height: 64, steps: 4, sampler: euler}
    limits: {max_pixels: 65536, max_steps: 20, max_images: 4}
  drawn: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2}}
loras:
  ink: {source: file:ink.safetensors, family: fake, trigger: ink style}
  glow: {source: file:glow.safetensors, family: sdxl}
controlnets: {canny: {source: dir:canny, family: fake, preprocessor: canny}}
ip_adapters: {plus: {source: file:plus.safetensors, family: sd}}
upscalers: {sharp: {source: file:sharp.safetensors}}
styles: {house: {prompt: "{prompt}, in our house style"}}
"""


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    server = launch(tmp_path_factory.mktemp("native"), models=MODELS).until_ready()
    yield server
    assert server.stop() == 0


def png(size=(64, 64), colour="red", mode="RGB"):
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, "PNG")
    return target.getvalue()


def url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def made(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def opened(b64):
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_an_answer_tells_all(server):
    body = {
        "prompt": "a cat",
        "size": "64x96",
        "seeds": [7, 9],
        "guidance": 1,
        "negative_prompt": "dull",
        "response_format": "b64",
    }
    found = made(server.client.post(GENERATE, json=body))
    facts = {"id", "created", "model", "size", "seeds", "images", "timings", "evaluations", "usage"}
    assert set(found) == facts | {"cache", "warnings", "moderation", "route"}
    assert (found["model"], found["size"], found["seeds"], found["evaluations"]) == ("quick", "64x96", [7, 9], 8)
    assert [each["seed"] for each in found["images"]] == [7, 9]
    assert all(opened(each["b64"]).size == (64, 96) for each in found["images"])
    assert set(found["timings"]) == {"queue", "encode", "denoise", "decode", "total"}
    assert found["timings"]["total"] >= found["timings"]["denoise"] >= 0
    assert [each["code"] for each in found["warnings"]] == ["negative_prompt_unused"]


def test_results_are_urls_at_the_size_that_is_asked_for(server):
    output = {"format": "webp", "quality": 80, "size": "32x32"}
    found = made(server.client.post(GENERATE, json={"prompt": "a cat", "model": "drawn", "output": output}))
    (image,) = found["images"]
    assert (found["size"], image["width"], image["height"], image["format"]) == ("32x32", 32, 32, "webp")
    fetched = Image.open(io.BytesIO(httpx.get(image["url"]).content))
    assert (fetched.size, fetched.format) == ((32, 32), "WEBP")


def test_the_same_request_is_the_same_image_in_both_dialects(server):
    asked = {"prompt": "a cat", "seed": 5, "cache": "off"}
    ours = made(server.client.post(GENERATE, json={**asked, "guidance": 3, "response_format": "b64"}))
    theirs = server.client.post("/v1/images/generations", json={**asked, "guidance_scale": 3}).json()
    assert opened(ours["images"][0]["b64"]).tobytes() == opened(theirs["data"][0]["b64_json"]).tobytes()


def test_pictures_in_json_in_forms_and_as_assets(server):
    asset = server.client.post("/api/assets", content=png()).json()["id"]
    whole = {"prompt": "a cat", "strength": 0.5, "seed": 1, "cache": "off"}
    answers = [
        server.client.post(GENERATE, json={**whole, "image": url(png())}),
        server.client.post(GENERATE, json={**whole, "image": asset}),
        server.client.post(GENERATE, files={"image": png()}, data={name: str(value) for name, value in whole.items()}),
        server.client.post(GENERATE, data={**{name: str(value) for name, value in whole.items()}, "image": asset}),
        server.client.post(GENERATE, files={"image": png(), "request": (None, json.dumps(whole), "application/json")}),
        server.client.post(GENERATE, files={"photo": png(), "request": json.dumps({**whole, "image": "photo"}).encode()}),
    ]
    found = [made(answer) for answer in answers]
    assert len({httpx.get(each["images"][0]["url"]).content for each in found}) == 1
    assert all(each["evaluations"] == found[0]["evaluations"] for each in found)


def test_a_picture_of_any_size_is_made_larger_and_nothing_is_drawn(server):
    body = {"recipe": "upscale", "image": url(png((75, 53))), "upscale": {"scale": 1.5}, "response_format": "b64"}
    answer = made(server.client.post(GENERATE, json=body))
    assert (answer["size"], answer["evaluations"], answer["warnings"]) == ("112x80", 0, [])
    assert opened(answer["images"][0]["b64"]).size == (112, 80)


def test_a_form_with_masks_and_options_in_json(server):
    data = {"prompt": "a cat", "mask_blur": "2.5", "keep_unmasked": "true", "output": '{"format": "jpeg"}'}
    found = made(server.client.post(GENERATE, files={"image": png(), "mask": png(mode="L", colour=255)}, data=data))
    assert found["images"][0]["format"] == "jpeg"


def events(text):
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream(server):
    body = {"prompt": "a cat", "steps": 8, "count": 2, "previews": 2, "seed": 3}
    with server.client.stream("POST", GENERATE, json=body, headers={"accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer.read().decode())
    names = [name for name, _ in told]
    assert (names[0], names[-1]) == ("started", "finished")
    assert told[0][1]["seeds"] == [3, 4]
    assert [data["step"] for name, data in told if name == "progress" and data["image"] == 1] == list(range(1, 9))
    previews = [data for name, data in told if name == "preview"]
    assert {(data["image"], data["step"]) for data in previews} == {(0, 3), (1, 3), (0, 6), (1, 6)}
    assert all(opened(data["b64"]).format == "JPEG" for data in previews)
    assert [image["seed"] for image in told[-1][1]["images"]] == [3, 4]


def test_a_refused_stream_is_an_ordinary_error(server):
    answer = server.client.post(GENERATE, json={"prompt": "x", "size": "1x1"}, headers={"accept": "text/event-stream"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "size")


BAD = {
    "no prompt": ({}, 400, "invalid_request", "prompt"),
    "an option that there is not": ({"prompt": "x", "step": 3}, 400, "invalid_request", "step"),
    "an option of theirs": ({"prompt": "x", "n": 3}, 400, "invalid_request", "n"),
    "an unknown model": ({"prompt": "x", "model": "gone"}, 404, "model_not_found", "model"),
    "an unknown lora": ({"prompt": "x", "loras": ["gone"]}, 400, "invalid_request", "loras[0].name"),
    "a lora for another family": ({"prompt": "x <lora:glow:1>"}, 400, "unsupported", "prompt"),
    "an ip-adapter for another family": (
        {"prompt": "x", "references": [{"name": "plus", "image": url(png())}]},
        400,
        "unsupported",
        "references[0].name",
    ),
    "an unknown asset": ({"prompt": "x", "image": "asset_" + "0" * 32}, 404, "asset_not_found", "image"),
    "a picture elsewhere": ({"prompt": "x", "image": "http://169.254.169.254/"}, 400, "unsupported", "image"),
    "a picture that is none": ({"prompt": "x", "image": url(b"hello")}, 400, "bad_picture", "image"),
    "a wrong type": ({"prompt": "x", "controls": [{"name": 4}]}, 400, "invalid_request", "controls[0].name"),
    "no json": (b"{", 400, "invalid_request", None),
    "nothing": (b"", 400, "invalid_request", None),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(server, name):
    body, status, code, param = BAD[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.client.post(GENERATE, content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param", "retryable"}
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


FORMS = {
    "a file that no option names": ({"photo": png()}, {"prompt": "x"}, "photo"),
    "options in both ways": ({"request": b'{"prompt": "x"}'}, {"steps": "3"}, "steps"),
    "a picture in both ways": ({"request": b'{"prompt": "x", "image": "photo"}', "image": png()}, {}, "image"),
    "lists as clients of OpenAI nest them": ({"image": png()}, {"prompt": "x", "loras[][name]": "ink"}, "loras"),
    "the same field twice": ([("image", png()), ("image", png())], {"prompt": "x"}, "image"),
    "an option that there is not": ({"image": png()}, {"promt": "x"}, "promt"),
}


@pytest.mark.parametrize("name", FORMS)
def test_errors_of_forms(server, name):
    files, data, param = FORMS[name]
    answer = server.client.post(GENERATE, files=files, data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_field_that_is_no_text(server):
    content = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n--b--\r\n'
    for path in (GENERATE, "/v1/images/edits", "/api/assets"):
        answer = server.client.post(path, content=content, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 400


def test_assets(server):
    stored = server.client.post("/api/assets", content=png((20, 10)), headers={"content-type": "image/png"})
    assert stored.status_code == 201
    asset = stored.json()
    assert {**asset, "id": 0} == {"id": 0, "format": "png", "width": 20, "height": 10, "bytes": len(png((20, 10)))}
    assert server.client.post("/api/assets", files={"file": png((20, 10))}).json() == asset
    fetched = server.client.get(f"/api/assets/{asset['id']}")
    assert (fetched.content, fetched.headers["content-type"]) == (png((20, 10)), "image/png")
    assert fetched.headers["x-content-type-options"] == "nosniff"
    assert server.client.delete(f"/api/assets/{asset['id']}").status_code == 204
    for method in ("GET", "DELETE"):
        gone = server.client.request(method, f"/api/assets/{asset['id']}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "asset_not_found")


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", png()[:60]])
def test_only_pictures_are_kept(server, data):
    answer = server.client.post("/api/assets", content=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_picture")


def test_a_form_without_its_file(server):
    for files in ({"image": png()}, {"file": png(), "other": png()}):
        assert server.client.post("/api/assets", files=files).json()["error"]["param"] == "file"


def test_openai_s_file_id_is_an_asset(server):
    asset = server.client.post("/api/assets", content=png((64, 64), "white")).json()["id"]
    answer = server.client.post("/v1/images/edits", json={"prompt": "a cat", "images": [{"file_id": asset}]})
    assert answer.status_code == 200
    gone = server.client.post("/v1/images/edits", json={"prompt": "a cat", "images": [{"file_id": "asset_0"}]})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "asset_not_found")


def test_openai_s_client_sends_our_options(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        small = client.images.generate(prompt="a cat", extra_body={"output": {"size": "16x16"}, "style_preset": "house"})
        assert opened(small.data[0].b64_json).size == (16, 16)
        assert small.size == "16x16"
        nested = json.dumps({"size": "16x16"})
        edited = client.images.edit(image=png(), prompt="a cat", extra_body={"output": nested, "resize": "fill"})
        assert opened(edited.data[0].b64_json).size == (16, 16)
        with pytest.raises(openai.BadRequestError, match="one field with JSON in it") as caught:
            client.images.edit(image=png(), prompt="a cat", extra_body={"loras": [{"name": "ink", "weight": 1}]})
        assert caught.value.param == "loras"


def test_adapters_are_listed(server):
    found = server.client.get("/api/adapters").json()
    assert [each["name"] for each in found["loras"]] == ["ink", "glow"]
    assert found["loras"][0]["trigger"] == "ink style"
    assert [found[kind][0]["name"] for kind in ("controlnets", "ip_adapters", "upscalers")] == ["canny", "plus", "sharp"]
    fitting = server.client.get("/api/adapters", params={"model": "quick"}).json()
    assert [len(fitting[kind]) for kind in ("loras", "controlnets", "ip_adapters", "upscalers")] == [1, 1, 0, 1]
    assert server.client.get("/api/adapters", params={"model": "gone"}).status_code == 404


def test_an_edit_of_models_yaml_brings_new_loras(serve, until):
    server = serve(models=MODELS).until_ready()
    path = server.home.parent / "models.yaml"
    path.write_text(MODELS.replace("ink:", "chalk:"))
    until(lambda: server.client.get("/api/adapters").json()["loras"][0]["name"] == "chalk", what="the new LoRA")
    refused = server.client.post(GENERATE, json={"prompt": "<lora:ink:1> x"}).json()["error"]
    assert refused["message"] == "There is no LoRA 'ink'; for family fake there are chalk."
    path.write_text(MODELS.replace("family: sdxl}", "family: flux}"))
    until(lambda: server.client.get("/api/models").json()["catalog"]["error"], what="the refusal")
    assert "loras.glow.family" in server.client.get("/api/models").json()["catalog"]["error"]
    assert server.client.get("/api/adapters").json()["loras"][0]["name"] == "chalk"


def test_keys_part_tenants(serve):
    server = serve(models=MODELS, env={"AQUATINT_API_KEYS": "one,two"}).until_ready()
    assert server.client.post("/api/assets", content=png()).status_code == 401
    assert server.client.post(GENERATE, json={"prompt": "x"}).status_code == 401
    one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    asset = server.client.post("/api/assets", content=png(), headers=one).json()["id"]
    body = {"prompt": "x", "image": asset, "strength": 0.9}
    assert server.client.post(GENERATE, json=body, headers=one).status_code == 200
    assert server.client.post(GENERATE, json=body, headers=two).status_code == 404
    assert server.client.get(f"/api/assets/{asset}", headers=two).status_code == 404
    assert server.client.delete(f"/api/assets/{asset}", headers=two).status_code == 404
    assert server.client.get(f"/api/assets/{asset}", headers=one).status_code == 200


def test_a_body_over_the_limit(serve):
    server = serve("--max-upload-bytes", "100K", models=MODELS).until_ready()
    body = b'{"prompt": "' + b"x" * 200_000 + b'"}'
    for path in (GENERATE, "/api/assets", "/v1/images/generations", "/v1/images/edits"):
        answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
