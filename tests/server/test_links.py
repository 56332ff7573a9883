"""Results over HTTP: links that expire, parts of files, what is known of a result, and whose it is."""

import contextlib
import io
import json
import os
import sqlite3

import httpx
import pytest
from PIL import Image

from server.api.errors import RangeNotSatisfiable
from server.api.sending import span

JSON = {"Accept": "application/json"}


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("", None),
        ("bytes=0-9", (0, 10)),
        (" bytes=5- ", (5, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-99", (99, 100)),
        ("bytes=9-0", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("items=0-9", None),
        ("bytes=a-b", None),
        ("bytes=100-", "none"),
        ("bytes=-0", "none"),
    ],
)
def test_ranges(header, wanted):
    if wanted == "none":
        with pytest.raises(RangeNotSatisfiable) as error:
            span(header, 100)
        assert error.value.size == 100
    else:
        assert span(header, 100) == wanted


def made(server, body=None, **options):
    answer = server.client.post("/api/generate", json={"prompt": "a cat", "seed": 7, **(body or {})}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["images"][0]


def test_the_whole_and_a_part(fake_server):
    url = made(fake_server)["url"]
    whole = httpx.get(url)
    assert Image.open(io.BytesIO(whole.content)).format == "PNG"
    tag, size = whole.headers["etag"], len(whole.content)
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("image/png", "bytes")
    assert "immutable" in whole.headers["cache-control"]

    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{size}"
    assert httpx.get(url, headers={"Range": "bytes=-4", "If-Range": tag}).content == whole.content[-4:]
    for stale in ('"other"', f"W/{tag}", "Sun, 22 Nov 2026 21:16:20 GMT"):
        assert httpx.get(url, headers={"Range": "bytes=-4", "If-Range": stale}).status_code == 200
    beyond = httpx.get(url, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert beyond.json()["code"] == "range_not_satisfiable"

    for named in (tag, f'"x", W/{tag}', "*"):
        known = httpx.get(url, headers={"If-None-Match": named, "Range": "bytes=1-2"})
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert httpx.get(url, headers={"If-None-Match": '"other"'}).status_code == 200

    head = httpx.head(url, headers={"Range": "bytes=1-2"})
    assert (head.status_code, head.content) == (200, b"")
    assert (head.headers["content-length"], head.headers["etag"]) == (str(size), tag)
    assert httpx.head(url, headers={"If-None-Match": tag}).status_code == 304


def test_altered_links(fake_server):
    image, other = made(fake_server), made(fake_server)
    url, query = image["url"].split("?")
    expires = query.split("&")[0].split("=")[1]
    for bad in (
        url,
        f"{url}?{query}A",
        f"{url}?{query[:-1]}",
        f"{url}?{query.replace(expires, '9' + expires)}",
        f"{url}?{query.replace(expires, expires + '&expires=' + expires)}&signature=",
        f"{url}?expires=never&signature=é",
        f"{other['url'].split('?')[0]}?{query}",
    ):
        for method in ("GET", "HEAD"):
            answer = httpx.request(method, bad)
            assert answer.status_code == 403, bad
        assert httpx.get(bad).json()["code"] == "link_invalid"
    gone = fake_server.client.delete(f"/api/assets/{image['id']}")
    assert gone.status_code == 204
    assert httpx.get(image["url"]).status_code == 404
    assert httpx.get(other["url"]).status_code == 200


def test_links_expire_and_a_new_one_is_for_the_asking(serve, until):
    server = serve("--link-hours", "0.0005").until_ready()
    job = server.client.post("/api/jobs", json={"prompt": "a cat"}).json()["id"]
    first = until(lambda: server.client.get(f"/api/jobs/{job}").json()["images"])[0]["url"]
    late = until(lambda: (answer := httpx.get(first)).status_code == 403 and answer)
    assert late.json()["code"] == "link_expired"
    fresh = server.client.get(f"/api/jobs/{job}").json()["images"][0]["url"]
    assert fresh != first


def test_what_is_known_of_a_result(fake_server):
    body = {"prompt": "a cat", "negative_prompt": "a dog", "steps": 5, "output": {"format": "webp"}}
    image = made(fake_server, body)
    file = fake_server.client.get(f"/api/assets/{image['id']}")
    assert (file.status_code, file.headers["content-type"]) == (200, "image/webp")
    exif = Image.open(io.BytesIO(file.content)).getexif()
    known = fake_server.client.get(f"/api/assets/{image['id']}", headers=JSON).json()
    assert known["parameters"].startswith("a cat\nNegative prompt: a dog\nSteps: 5, ")
    assert known["request"]["negative_prompt"] == "a dog"
    assert known["request"]["seed"] == known["seed"] == 7
    assert (known["bytes"], known["width"], known["format"]) == (len(file.content), image["width"], "webp")
    assert json.loads(exif[0x010E]) == known["request"]
    assert exif.get_ifd(0x8769)[0x9286][8:].decode("utf-16-be") == known["parameters"]
    assert httpx.get(known["url"]).content == file.content
    part = fake_server.client.get(f"/api/assets/{image['id']}", headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"RIFF")


@pytest.mark.parametrize(("told", "kept"), [("all", 2), ("infotext", 1), ("request", 1), ("none", 0)])
def test_a_request_says_what_its_files_tell(fake_server, told, kept):
    image = made(fake_server, {"output": {"metadata": told}})
    texts = Image.open(io.BytesIO(httpx.get(image["url"]).content)).text
    assert len(texts.keys() - {"XML:com.adobe.xmp"}) == kept


def test_avif_and_a_server_whose_files_tell_nothing(serve):
    server = serve("--file-metadata", "none").until_ready()
    image = made(server, {"output": {"format": "avif"}})
    answer = httpx.get(image["url"])
    assert answer.headers["content-type"] == "image/avif"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, dict(picture.getexif())) == ("AVIF", {})
    openai = server.client.post("/v1/images/generations", json={"prompt": "x", "output_format": "avif", "response_format": "url"})
    assert openai.json()["output_format"] == "avif"
    short = server.client.get("/api/assets/" + image["id"], headers=JSON).json()
    assert short["request"]["prompt"] == "a cat"


def test_uploads_are_described_too(fake_server):
    target = io.BytesIO()
    Image.new("RGB", (8, 4)).save(target, "PNG")
    sent = fake_server.client.post("/api/assets", content=target.getvalue()).json()
    assert fake_server.client.get(f"/api/assets/{sent['id']}", headers=JSON).json() == sent
    assert fake_server.client.get(f"/api/assets/{sent['id']}").content == target.getvalue()


def stored(folder):
    """Names of the pictures below; folders may go while one looks, and `Path.rglob` would stumble over that."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith(".png")]


def test_results_are_their_tenant_s_and_go_with_their_job(serve, until):
    server = serve(env={"AQUATINT_API_KEYS": "one,two"}).until_ready()
    mine, other = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    job = server.client.post("/api/jobs", json={"prompt": "a cat"}, headers=mine).json()["id"]
    image = until(lambda: server.client.get(f"/api/jobs/{job}", headers=mine).json()["images"])[0]
    path = f"/api/assets/{image['id']}"
    for method in ("GET", "DELETE"):
        refused = server.client.request(method, path, headers=other)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "asset_not_found")
        assert server.client.request(method, path).status_code == 401
    assert server.client.get(path, headers=mine).status_code == 200
    assert httpx.get(image["url"]).status_code == 200
    files = server.home / "outputs"
    assert len(stored(files)) == 1
    assert server.client.delete(f"/api/jobs/{job}", headers=mine).status_code == 204
    assert httpx.get(image["url"]).status_code == 404
    until(lambda: not stored(files))


def test_a_job_whose_deletion_was_cut_off_can_be_deleted_again(serve, until):
    server = serve().until_ready()
    job = server.client.post("/api/jobs", json={"prompt": "a cat"}).json()["id"]
    image = until(lambda: server.client.get(f"/api/jobs/{job}").json()["images"])[0]
    with contextlib.closing(sqlite3.connect(server.home / "state" / "aquatint.db", timeout=30)) as database:
        database.execute("CREATE TRIGGER no BEFORE DELETE ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END")
        database.commit()
        assert server.client.delete(f"/api/jobs/{job}").status_code == 500
        database.execute("DROP TRIGGER no")
        database.commit()
    until(lambda: not stored(server.home / "outputs"))
    assert httpx.get(image["url"]).status_code == 404
    assert server.client.get(f"/api/jobs/{job}").status_code == 200
    assert server.client.delete(f"/api/jobs/{job}").status_code == 204
    assert server.client.get(f"/api/jobs/{job}").status_code == 404


def test_a_server_on_s3(serve, s3, until):
    place = s3.place()
    server = serve("--storage-url", place, "--storage-endpoint", s3.endpoint, env=s3.environment).until_ready()
    image = made(server)
    assert image["url"].startswith(f"{s3.endpoint}/results/")
    assert httpx.get(image["url"]).content == server.client.get(f"/api/assets/{image['id']}").content
    assert httpx.get(image["url"].replace("X-Amz-Expires=86400", "X-Amz-Expires=86401")).status_code == 403
    assert made(server, {"response_format": "b64"})["b64"]
    server.client.delete(f"/api/assets/{image['id']}")
    public = serve(
        "--storage-url", place, "--storage-endpoint", s3.endpoint, "--cdn-base-url", "https://cdn.example", env=s3.environment
    )
    url = made(public.until_ready())["url"]
    assert url.startswith("https://cdn.example/")
    assert "?" not in url
    # What was written before is private; equal bytes are found again by their tenant only in the same database.
    assert server.stop() == 0


def test_a_server_that_may_not_write_says_so_at_once(serve, s3, tmp_path):
    with pytest.raises(pytest.fail.Exception, match="results cannot be stored"):
        serve("--storage-url", "s3://nowhere/x", "--storage-endpoint", s3.endpoint, env=s3.environment)
