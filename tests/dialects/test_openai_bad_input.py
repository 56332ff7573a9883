"""Everything a client can get wrong is a 4xx in OpenAI's envelope before any work, and the server goes on."""

import io
import json
import struct
import zlib

import pytest
from PIL import Image

GENERATE = "/v1/images/generations"
EDIT = "/v1/images/edits"


@pytest.fixture(autouse=True)
def before_any_work(fake_server):
    """What is refused never became a job."""
    names = ("aquatint_jobs_total", "aquatint_tick_evaluations_total", "aquatint_queue_images")
    before = [fake_server.metric(name) for name in names]
    yield
    assert [fake_server.metric(name) for name in names] == before


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 4096)) + chunk(b"IEND", b"")


def png(mode="RGB", size=(128, 128)):
    target = io.BytesIO()
    Image.effect_noise(size, 64).convert(mode).save(target, "PNG")
    return target.getvalue()


BODIES = {
    "malformed": (b'{"prompt": ', 400, None),
    "empty": (b"", 400, None),
    "not an object": (b"[1, 2]", 400, None),
    "not utf-8": (b'{"prompt": "\xff\xfe"}', 400, None),
    "deep nesting": (b'{"prompt": "a", "x": ' + b"[" * 100_000, 400, None),
    "no prompt": ({}, 400, "prompt"),
    "prompt of the wrong type": ({"prompt": 5}, 400, "prompt"),
    "empty prompt": ({"prompt": ""}, 400, "prompt"),
    "long prompt": ({"prompt": "x" * 40_000}, 400, "prompt"),
    "size 127x1": ({"prompt": "x", "size": "127x1"}, 400, "size"),
    "size that is no size": ({"prompt": "x", "size": "big"}, 400, "size"),
    "size of too many pixels": ({"prompt": "x", "size": "1024x1024"}, 400, "size"),
    "n=0": ({"prompt": "x", "n": 0}, 400, "n"),
    "n=11": ({"prompt": "x", "n": 11}, 400, "n"),
    "n that is no number": ({"prompt": "x", "n": "many"}, 400, "n"),
    "n of a thousand digits": (b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", 400, None),
    "steps=10^9": ({"prompt": "x", "steps": 10**9}, 400, "steps"),
    "steps=0": ({"prompt": "x", "steps": 0}, 400, "steps"),
    "negative seed": ({"prompt": "x", "seed": -2}, 400, "seed"),
    "seed too large": ({"prompt": "x", "seed": 2**64}, 400, "seed"),
    "infinite guidance": (b'{"prompt": "x", "guidance_scale": 1e999}', 400, None),
    "unknown sampler": ({"prompt": "x", "sampler": "magic"}, 400, "sampler"),
    "schedule the sampler lacks": ({"prompt": "x", "sampler": "ddim", "scheduler": "karras"}, 400, "scheduler"),
    "unknown model": ({"prompt": "x", "model": "sdxl"}, 404, "model"),
    "response_format": ({"prompt": "x", "response_format": "hex"}, 400, "response_format"),
    "output_format": ({"prompt": "x", "output_format": "gif"}, 400, "output_format"),
    "compressed png": ({"prompt": "x", "output_compression": 50}, 400, "output_compression"),
    "compression of 101": ({"prompt": "x", "output_format": "jpeg", "output_compression": 101}, 400, "output_compression"),
    "transparent": ({"prompt": "x", "background": "transparent"}, 400, "background"),
    "body of 3 MB": (b'{"prompt": "' + b"x" * 3_000_000 + b'"}', 400, "prompt"),
    "unknown lora": ({"prompt": "x", "loras": ["paper"]}, 400, "loras[0].name"),
    "unknown lora in a tag": ({"prompt": "x <lora:paper:0.5>"}, 400, "prompt"),
    "option of a lora that there is not": (
        {"prompt": "x", "loras": [{"name": "a"}, {"name": "b", "wight": 1}]},
        400,
        "loras[1].wight",
    ),
    "control without a picture": ({"prompt": "x", "controls": [{"name": "canny"}]}, 400, "controls[0].image"),
    "mask options without a picture": ({"prompt": "x", "mask_blur": 4}, 400, "mask_blur"),
    "an asset that is not there": (
        {"prompt": "x", "controls": [{"name": "canny", "image": "asset_" + "0" * 32}]},
        404,
        "controls[0].image",
    ),
    "hires without a size": ({"prompt": "x", "hires": {}}, 400, "hires"),
    "a second pass beyond the limit": ({"prompt": "x", "hires": {"scale": 4}}, 400, "hires"),
    "unknown upscaler": ({"prompt": "x", "upscale": {"scale": 2, "upscaler": "sharp"}}, 400, "upscale.upscaler"),
    "a balance that there is not": (
        {"prompt": "x", "controls": [{"name": "a", "image": "x", "balance": "mine"}]},
        400,
        "controls[0].balance",
    ),
    "format said twice": ({"prompt": "x", "output_format": "png", "output": {"format": "png"}}, 400, "output.format"),
}


def check(server, response, status, param):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.status_code == status, error
    assert response.headers["x-request-id"]
    assert response.headers["openai-version"] == "2020-10-01"
    if param is not None:
        assert error["param"] == param, error
    assert "Traceback" not in response.text
    assert server.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", BODIES)
def test_generation(fake_server, name):
    body, status, param = BODIES[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = fake_server.client.post(GENERATE, content=content, headers={"content-type": "application/json"})
    check(fake_server, response, status, param)


FILES = {
    "100-megapixel header": ({"image": png_header(10_000, 10_000)}, {}, 400, "image"),
    "2^31 pixels wide": ({"image": png_header(2**31 - 1, 2**31 - 1)}, {}, 400, "image"),
    "truncated png": ({"image": png()[:2000]}, {}, 400, "image"),
    "cut inside the header": ({"image": png()[:20]}, {}, 400, "image"),
    "no image at all": ({"image": b"GIF89a, or so they say"}, {}, 400, "image"),
    "an empty file": ({"image": b""}, {}, 400, "image"),
    "an svg": ({"image": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, {}, 400, "image"),
    "no file": ({"other": b"x"}, {}, 400, "image"),
    "mask without alpha": ({"image": png(), "mask": png("L")}, {}, 400, "mask"),
    "mask of another size": ({"image": png(), "mask": png("RGBA", (64, 64))}, {}, 400, "mask"),
    "two images": ([("image[]", ("a.png", png())), ("image[]", ("b.png", png()))], {}, 400, "image"),
    "strength 0": ({"image": png()}, {"strength": "0"}, 400, "strength"),
    "strength nan": ({"image": png()}, {"strength": "nan"}, 400, "strength"),
    "n as a word": ({"image": png()}, {"n": "two"}, 400, "n"),
    "loras as the client of OpenAI nests them": ({"image": png()}, {"loras[][name]": "a", "loras[][weight]": "1"}, 400, "loras"),
    "loras that are no json": ({"image": png()}, {"loras": "[{"}, 400, "loras"),
    "a control of a part that there is not": (
        {"image": png()},
        {"controls": '[{"name": "a", "image": "b"}]'},
        400,
        "controls[0].image",
    ),
    "a margin that is no number": ({"image": png()}, {"outpaint": '{"left": "wide"}'}, 400, "outpaint.left"),
    "margins without a side": ({"image": png()}, {"outpaint": "{}"}, 400, "outpaint"),
    "only_masked without a mask": ({"image": png()}, {"only_masked": "true"}, 400, "only_masked"),
    "stepless sampler": ({"image": png()}, {"sampler": "ipndm"}, 400, "sampler"),
}


@pytest.mark.parametrize("name", FILES)
def test_edit(fake_server, name):
    files, fields, status, param = FILES[name]
    response = fake_server.client.post(EDIT, files=files, data={"prompt": "x", **fields})
    check(fake_server, response, status, param)


def test_edit_without_boundary_and_without_body(fake_server):
    for headers in ({"content-type": "multipart/form-data"}, {"content-type": "multipart/form-data; boundary=x"}, {}):
        response = fake_server.client.post(EDIT, content=b"--y--", headers=headers)
        check(fake_server, response, 400, None)


def test_json_edit_fetches_nothing(fake_server):
    body = {"prompt": "x", "images": [{"image_url": "http://169.254.169.254/latest/meta-data"}]}
    check(fake_server, fake_server.client.post(EDIT, json=body), 400, "images")


def test_unknown_addresses_and_methods(fake_server):
    check(fake_server, fake_server.client.get("/v1/nothing"), 404, None)
    check(fake_server, fake_server.client.get(GENERATE), 405, None)
    check(fake_server, fake_server.client.post("/v1/images/variations", files={"image": png()}), 404, None)


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc%2Fpasswd", "a.png", "%2e%2e", "A" * 32 + ".png", "A" * 32 + ".png%00", "A" * 32 + ".svg"]
)
def test_outputs_give_out_nothing_else(fake_server, name):
    answer = fake_server.client.get(f"/outputs/{name}", params={"expires": "9999999999", "signature": "A" * 43})
    # No address has a slash or a NUL in its last part; a name that could be one is refused for its signature.
    assert answer.status_code == (404 if "%2F" in name or "%00" in name else 403)
