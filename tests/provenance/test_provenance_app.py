"""The composition with a signer in it, without workers."""

import base64

import msgspec
import pytest
from authorities import xmp
from litestar.testing import TestClient

from server.app import application, assemble
from server.db.jobs import SqlJobs
from server.db.webhooks import Outbox
from server.domain.clock import SystemClock
from server.gateway.finish import Gateway
from server.gateway.provenance import Provenance
from server.jobs.admission import Admission
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider
from server.settings import Settings
from server.storage.provenance.reading import Inspector
from server.telemetry.logs import silent

MODELS = """
server: {default_model: demo}
models: {demo: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2, sampler: euler}}}
"""


async def nothing(_job):
    return b""


def client(folder, settings, tenants=""):
    """As the server is put together, but for who makes the pictures."""
    (folder / "models.yaml").write_text(MODELS + tenants)
    parts = assemble(msgspec.structs.replace(settings, models=folder / "models.yaml"), silent())
    clock = SystemClock()
    provenance = Provenance(parts.signer, lambda tenant: parts.current.catalog.policy(tenant).disclosure)
    jobs = JobService(
        Gateway(FunctionProvider(), parts.store, parts.metrics, provenance=provenance),
        SqlJobs(parts.database, clock, Outbox(nothing)),
        Admission(8, parts.metrics),
        clock=clock,
        metrics=parts.metrics,
        log=silent(),
    )
    return TestClient(application(msgspec.structs.replace(parts, jobs=jobs)))


def settings(folder, ours, **more):
    files = {"provenance_certificate": ours.folder / "certificate.pem", "provenance_key": ours.folder / "key.pem"}
    return Settings(home=folder, devices=("fake",), **files, **more)


def test_a_policy_can_keep_it_quiet(tmp_path):
    quiet = "tenants: {default: {disclosure: {header: false, metadata: false}}}"
    with client(tmp_path, Settings(home=tmp_path, devices=("fake",)), quiet) as server:
        answer = server.post("/v1/images/generations", json={"prompt": "x", "response_format": "url"})
        file = server.get(answer.json()["data"][0]["url"])
        check = server.post("/v1/content_provenance_checks", files={"file": file.content}).json()["results"][0]
    assert answer.status_code == file.status_code == 200
    assert "x-ai-generated" not in answer.headers
    assert "x-ai-generated" not in file.headers
    assert xmp(file.content) is None
    assert (check["outcome"], check["validation_state"]) == ("not_detected", "not_present")


@pytest.mark.parametrize(("own", "others"), [(True, False), (False, True)])
def test_a_file_says_so_if_its_own_tenant_wants_it(tmp_path, own, others):
    mixed = f"tenants: {{default: {{disclosure: {{header: {others}}}}}, local: {{disclosure: {{header: {own}}}}}}}"
    with client(tmp_path, Settings(home=tmp_path, devices=("fake",)), mixed) as server:
        answer = server.post("/v1/images/generations", json={"prompt": "x", "response_format": "url"})
        file = server.get(answer.json()["data"][0]["url"])
        known = server.get(answer.json()["data"][0]["url"], headers={"If-None-Match": file.headers["etag"]})
        altered = server.get(answer.json()["data"][0]["url"] + "A")
    assert (answer.status_code, file.status_code, known.status_code, altered.status_code) == (200, 200, 304, 403)
    told = ["x-ai-generated" in each.headers for each in (answer, file, known, altered)]
    assert told == [own, own, own, False]


def test_certificate_and_key_by_their_paths(tmp_path, ours):
    with client(tmp_path, settings(tmp_path, ours)) as server:
        answer = server.post("/v1/images/generations", json={"prompt": "x"})
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert Inspector(ours.anchors).read(data, "image/png").state == "trusted"


def test_a_failed_signing_fails_the_request_with_a_clear_error(tmp_path, ours):
    """The time stamping authority cannot be reached; that alone does not keep a server from starting."""
    with client(tmp_path, settings(tmp_path, ours, provenance_tsa="http://127.0.0.1:1/stamp")) as server:
        answer = server.post("/v1/images/generations", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "signing_failed")
    assert "could not be signed" in answer.json()["error"]["message"]
    assert not (tmp_path / "outputs").exists()
