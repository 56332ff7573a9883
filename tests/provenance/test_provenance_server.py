"""A server that signs, and the official client."""

import base64
import io
import json

import openai
import pytest
from authorities import asked, encoded, xmp
from PIL import Image

from server.storage.provenance.claims import Telling, made

MODELS = """
server: {default_model: demo}
models:
  demo: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2, sampler: euler}}
controlnets: {canny: {source: dir:canny, family: fake}}
tenants:
  default: {disclosure: {text: Made by a machine}}
"""
TELLING = Telling("big", "2026-11-22T10:00:00+00:00")


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory, ours, theirs):
    folder = tmp_path_factory.mktemp("signing")
    trust = ("--provenance-trust", str(theirs.folder / "ca.pem"))
    (folder / "home").mkdir()
    (folder / "home" / "provenance").symlink_to(ours.folder)
    server = launch(folder, *trust, models=MODELS).until_ready()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def pixels(data):
    return base64.b64decode(data)


def checked(client, data, name="x.png"):
    (result,) = client.content_provenance_checks.create(file=(name, data)).results
    return result


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_every_picture_is_signed(client, form):
    made_now = client.images.generate(prompt="a secret cat", n=2, output_format=form)
    for item in made_now.data:
        result = checked(client, pixels(item.b64_json))
        assert (result.type, result.outcome, result.validation_state) == ("c2pa", "detected", "trusted")
        assert (result.issuer, result.model) == ("Ours", "demo")
        assert result.generated_at.startswith("20")
        assert (result.ai_generated, result.actions, result.ingredients) == (True, ["c2pa.created"], [])


def test_what_was_sent_is_an_ingredient_with_its_own_manifest(client, theirs):
    source = theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    hole = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (8, 8, 32, 32))
    mask = io.BytesIO()
    hole.save(mask, "PNG")
    plain = client.images.edit(image=("a.png", source), prompt="a dog")
    painted = client.images.edit(image=("a.png", source), mask=("m.png", mask.getvalue()), prompt="a dog")
    bare = client.images.edit(image=("a.png", encoded()), prompt="a dog")
    results = [checked(client, pixels(each.data[0].b64_json)) for each in (plain, painted, bare)]
    assert [result.validation_state for result in results] == ["trusted"] * 3
    assert [result.actions for result in results] == [["c2pa.created"], ["c2pa.opened", "c2pa.edited"], ["c2pa.created"]]
    found = [result.ingredients[0] for result in results]
    assert [(part["relationship"], part["has_manifest"]) for part in found] == [
        ("inputTo", True),
        ("parentOf", True),
        ("inputTo", False),
    ]
    assert all(part["problems"] == [] for part in found)


def test_a_job_keeps_the_manifests_of_its_inputs(server, client, theirs, until):
    """From an asset, through the database, to the file."""
    source = theirs.signer.sign(encoded("JPEG"), "image/jpeg", made(asked(), (), TELLING))
    asset = server.client.post("/api/assets", content=source).json()["id"]
    body = {"prompt": "x", "image": asset, "controls": [{"name": "canny", "image": asset}]}
    job = server.client.post("/api/jobs", json=body).json()["id"]

    def over():
        found = server.client.get(f"/api/jobs/{job}")
        assert found.headers["x-ai-generated"] == "true"
        return found.json() if found.json()["state"] in ("succeeded", "failed") else None

    ended = until(over, 60)
    assert ended["state"] == "succeeded", ended
    name = next((server.home / "outputs").iterdir())
    assert name
    url = json.dumps(ended)
    address = url[url.index("/outputs/") :].split('"')[0]
    file = server.client.get(address)
    result = checked(client, file.content)
    assert sorted((part["title"], part["has_manifest"]) for part in result.ingredients) == [
        ("controls[0].image", True),
        ("image", True),
    ]


def test_lines_of_batches_keep_the_manifests_of_their_inputs(server, client, theirs, until):
    source = theirs.signer.sign(encoded("JPEG"), "image/jpeg", made(asked(), (), TELLING))
    asset = server.client.post("/api/assets", content=source).json()["id"]
    bare = server.client.post("/api/assets", content=encoded()).json()["id"]
    bodies = [
        {"prompt": "x", "image": asset, "controls": [{"name": "canny", "image": bare}]},
        {"prompt": "y", "image": bare, "controls": [{"name": "canny", "image": asset}]},
    ]
    lines = "\n".join(json.dumps({"custom_id": str(index), "body": body}) for index, body in enumerate(bodies))
    headers = {"content-type": "application/x-ndjson"}
    batch = server.client.post("/api/batches", content=lines, headers=headers).json()["id"]
    until(lambda: server.client.get(f"/api/batches/{batch}").json()["state"] == "finished", 60)
    told = [json.loads(line) for line in server.client.get(f"/api/batches/{batch}/results").text.splitlines()]
    found = [checked(client, server.client.get(each["images"][0]["url"]).content) for each in told]
    assert [result.validation_state for result in found] == ["trusted"] * 2
    assert [{part["title"]: part["has_manifest"] for part in result.ingredients} for result in found] == [
        {"image": True, "controls[0].image": False},
        {"image": False, "controls[0].image": True},
    ]


def test_answers_and_files_say_what_they_are(server):
    answer = server.client.post("/v1/images/generations", json={"prompt": "x", "response_format": "url"})
    assert answer.headers["x-ai-generated"] == "true"
    file = server.client.get(answer.json()["data"][0]["url"])
    assert file.headers["x-ai-generated"] == "true"
    said = xmp(file.content)
    assert said["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert said["li"] == "Made by a machine"
    native = server.client.post("/api/generate", json={"prompt": "x"})
    assert native.headers["x-ai-generated"] == "true"
    wrong = server.client.post("/v1/images/generations", json={"prompt": ""})
    for other in (wrong, server.client.get("/v1/models"), server.client.get("/outputs/none.png"), server.client.get("/nowhere")):
        assert "x-ai-generated" not in other.headers


def test_the_check_reads_what_was_changed(server, client, theirs):
    whole = theirs.signer.sign(encoded(), "image/png", made(asked(), (), TELLING))
    assert checked(client, whole).validation_state == "trusted"
    changed = bytearray(theirs.signer.sign(encoded("JPEG"), "image/jpeg", made(asked(), (), TELLING)))
    changed[-100] ^= 1
    result = checked(client, bytes(changed), "x.jpg")
    assert (result.outcome, result.validation_state) == ("detected", "invalid")
    assert any("dataHash.mismatch" in problem for problem in result.problems)
    assert checked(client, encoded("GIF"), "x.gif").outcome == "not_detected"
    in_json = {"file": "data:image/png;base64," + base64.b64encode(whole).decode()}
    answer = server.client.post("/v1/content_provenance_checks", json=in_json).json()
    assert answer["object"] == "content_provenance_check"
    assert answer["results"][0]["issuer"] == "Upstream"


@pytest.mark.parametrize(
    "sent",
    [
        {"files": {"file": b"no picture"}},
        {"files": {"image": encoded()}},
        {"json": {"file": "https://example.com/x.png"}},
        {"json": {"file": "data:image/png;base64,!"}},
        {"json": {}},
        {"content": b""},
    ],
)
def test_what_cannot_be_checked_is_refused(server, sent):
    answer = server.client.post("/v1/content_provenance_checks", **sent)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
