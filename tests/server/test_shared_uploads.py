"""Two servers over one PostgreSQL and one bucket: an upload at one is known to the other."""

import io

import pytest
from PIL import Image

from server.storage.shared_inputs import PATH


@pytest.fixture
def place(s3):
    return s3.place()


@pytest.fixture
def servers(serve, s3, place, postgres_url):
    flags = ("--database-url", postgres_url, "--storage-url", place, "--storage-endpoint", s3.endpoint)
    started = [serve(*flags, env=s3.environment) for _ in range(2)]
    return [server.until_ready() for server in started]


def files(s3, place):
    """Of uploads, in the bucket."""
    from obstore.store import from_url

    options = {name.lower(): value for name, value in s3.environment.items()}
    store = from_url(place, endpoint=s3.endpoint, client_options={"allow_http": True}, **options)
    found = [each["path"] for page in store.list() for each in page]
    return [path for path in found if PATH.fullmatch(path)]


@pytest.mark.timeout(280)
def test_an_upload_at_one_server_is_used_and_deleted_at_the_other(servers, s3, place, until):
    first, second = servers
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    asset = first.client.post("/api/assets", content=file.getvalue()).json()["id"]
    assert second.client.post("/api/assets", content=file.getvalue()).json()["id"] == asset
    assert len(files(s3, place)) == 1
    assert not [path for path in first.home.rglob("asset_*") if path.is_file()]
    edited = second.client.post("/v1/images/edits", json={"prompt": "a cat", "images": [{"file_id": asset}]})
    assert edited.status_code == 200, edited.text
    drawn = second.client.post("/api/generate", json={"prompt": "a cat", "image": asset, "strength": 0.5})
    assert drawn.status_code == 200, drawn.text
    fetched = first.client.get(f"/api/assets/{asset}")
    assert (fetched.content, fetched.headers["content-type"]) == (file.getvalue(), "image/png")
    assert second.client.delete(f"/api/assets/{asset}").status_code == 204
    for server in servers:
        assert server.client.get(f"/api/assets/{asset}").status_code == 404
        refused = server.client.post("/api/generate", json={"prompt": "a cat", "image": asset, "strength": 0.5})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "asset_not_found")
    until(lambda: not files(s3, place), 60, "the deletion of the file")
