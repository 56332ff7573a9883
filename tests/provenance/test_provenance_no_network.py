"""Nothing that a file names is asked for. The library has sockets of its own, so there is a server that would notice."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import c2pa
import pytest
from authorities import asked, encoded, picture

from pipelines.contract.request import Init
from server.domain.failures import SigningFailed
from server.domain.origin import Origin
from server.storage.provenance.claims import Telling, made
from server.storage.provenance.context import configuration
from server.storage.provenance.reading import Inspector
from server.storage.provenance.signing import Signer

TELLING = Telling("sdxl", "2026-11-22T10:00:00+00:00")


class Listener:
    def __init__(self):
        heard = self.heard = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                heard.append(self.path)
                self.send_error(404)

            do_POST = do_GET  # noqa: N815 - http.server's names

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join(30)
        self.server.server_close()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def remote(ours, listener):
    """A JPEG whose manifest is said to be on the listener."""
    signer, context = ours.signer._opened()
    source = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [source]}}]
    builder = c2pa.Builder({"claim_generator_info": [{"name": "x"}], "assertions": assertions}, context=context)
    builder.set_no_embed()
    builder.set_remote_url(f"{listener.url}/manifest.c2pa")
    target = io.BytesIO()
    builder.sign(signer, "image/jpeg", io.BytesIO(encoded("JPEG")), target)
    return target.getvalue()


def test_a_library_left_to_itself_would_ask(remote, listener):
    """Else the other tests would prove nothing."""
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/jpeg", io.BytesIO(remote), context=c2pa.Context.from_dict({}))
    assert listener.heard == ["/manifest.c2pa"]


def test_reading_asks_nobody(ours, remote, listener):
    found = Inspector(ours.anchors).read(remote, "image/jpeg")
    assert found.state == "not_present"
    assert "nothing is fetched" in found.problems[0]
    assert f"{listener.url}/manifest.c2pa" in found.problems[0]
    assert listener.heard == []


def test_an_ingredient_asks_nobody(ours, remote, listener):
    claim = made(asked(init=Init(picture())), [Origin("image", "image/jpeg", remote)], TELLING)
    signed = ours.signer.sign(encoded(), "image/png", claim)
    assert Inspector(ours.anchors).read(signed, "image/png").state == "trusted"
    assert listener.heard == []


def test_the_second_lock_holds_by_itself(ours, remote, listener):
    """If the library's switch for remote manifests were gone, the empty list of hosts would still refuse."""
    open_switch = configuration(ours.anchors)
    open_switch["verify"]["remote_manifest_fetch"] = True
    with pytest.raises(c2pa.C2paError, match="not permitted"):
        c2pa.Reader("image/jpeg", io.BytesIO(remote), context=c2pa.Context.from_dict(open_switch))
    assert listener.heard == []


def test_only_a_time_stamping_authority_that_is_configured_is_asked(ours, listener):
    claim = made(asked(), (), TELLING)
    ours.signer.sign(encoded(), "image/png", claim)
    assert listener.heard == []
    with pytest.raises(SigningFailed, match="404"):
        Signer(ours.credentials, f"{listener.url}/stamp").sign(encoded(), "image/png", claim)
    assert set(listener.heard) == {"/stamp"}
