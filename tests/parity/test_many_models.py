"""More models than the device may hold: a real server with real checkpoints makes the pictures of a server with room."""

import base64
import io
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image
from tiny import Tiny

MODELS = ("red", "green", "blue")
BUDGET_MB = 3
"""Room for two of the tiny checkpoints, not for three; the test makes sure of it."""
SAMPLERS = ("euler", "DPM++ 2M Karras", "ddim", "euler_a", "unipc")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Three checkpoints in diffusers layout, and the models.yaml that names them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    text = "server: {default_model: red}\nmodels:\n"
    for seed, model in enumerate(MODELS):
        Tiny(seed=seed).pipeline("txt2img").save_pretrained(folder / model)
        text += f"  {model}: {{source: 'dir:{folder / model}', family: sd, defaults: {{width: 64, height: 64, steps: 6}}}}\n"
    return text


def orders():
    """Sixty requests: three models, three kinds, unlike in everything else too."""
    for number in range(60):
        yield {
            "model": MODELS[number % 3],
            "kind": ("txt2img", "img2img", "inpaint")[number // 3 % 3],
            "prompt": f"thing number {number}",
            "size": ("64x64", "64x96")[number % 2],
            "extra_body": {
                "seed": 1000 + number,
                "steps": 4 + number % 5,
                "guidance_scale": (1.0, 5.0)[number // 2 % 2],
                "sampler": SAMPLERS[number % 5],
            },
        }


def drawing(size, mask=False):
    """A picture to begin from, or a mask that is transparent in the middle."""
    width, height = map(int, size.split("x"))
    image = Image.linear_gradient("L").resize((width, height)).convert("RGBA")
    if mask:
        image.paste((0, 0, 0, 0), (width // 4, height // 4, width // 2, height // 2))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def make(client, order):
    body = {name: value for name, value in order.items() if name != "kind"}
    if order["kind"] == "txt2img":
        answer = client.images.generate(**body)
    else:
        more = {"mask": ("m.png", drawing(order["size"], mask=True))} if order["kind"] == "inpaint" else {}
        answer = client.images.edit(image=("i.png", drawing(order["size"])), **more, **body)
    picture = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    return np.asarray(picture.convert("RGB")).astype(int)


def talking_to(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=600)


def models(server):
    return {each["id"]: each for each in server.client.get("/api/models").json()["data"]}


@pytest.mark.timeout(900)
def test_sixty_mixed_requests_while_models_come_and_go(serve, catalog):
    cpu = ("--device", "cpu", "--worker-hang-seconds", "600")
    tight = serve(*cpu, "--device-memory-mb", str(BUDGET_MB), models=catalog)
    roomy = serve(*cpu, models=catalog)
    listed = list(orders())
    random.Random(3).shuffle(listed)

    tight.until_ready(300)
    with talking_to(tight) as client, ThreadPoolExecutor(9) as pool:
        found = list(pool.map(lambda order: make(client, order), listed))
    sizes = {model: each["facts"]["bytes"] for model, each in models(tight).items()}
    assert max(sizes.values()) * 2 <= BUDGET_MB * 1_000_000 < sum(sizes.values())

    roomy.until_ready(300)
    with talking_to(roomy) as client:
        for order, picture in zip(listed, found, strict=True):
            alone = make(client, order)
            assert picture.shape == alone.shape
            assert np.abs(picture - alone).max() <= 1, order
    assert all(each["state"] == "loaded" for each in models(roomy).values())
    assert len({picture.tobytes() for picture in found}) == 60

    evictions = tight.metric("aquatint_model_unloads_total")
    assert evictions >= 1
    assert roomy.metric("aquatint_model_unloads_total") == 0
    assert tight.metric("aquatint_model_load_seconds_count") == evictions + 2  # every swap, with its seconds
    assert tight.metric("aquatint_model_load_seconds_sum") > 0
    assert 0 < tight.metric('aquatint_model_memory_bytes{place="device"') <= BUDGET_MB * 1_000_000
    assert tight.metric("aquatint_model_memory_budget_bytes") == BUDGET_MB * 1_000_000
    assert sorted(each["state"] for each in models(tight).values()) == ["cold", "loaded", "loaded"]
    print(f"\n{evictions:.0f} evictions, {tight.metric('aquatint_model_load_seconds_sum'):.1f} s of loading")
