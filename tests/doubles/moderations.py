"""OpenAI's moderation endpoint, as much of it as is asked: texts flag by a word, pictures by their colour; faults on demand."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"),
)


class Moderations:
    """A text with ``unwanted`` in it is violence, ``novel`` of a category that nobody knows; green pictures are sexual."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.keys: list[str | None] = []
        self.fault: str | None = None
        """A status, garbage, empty or hang; None: it works."""
        self.release = threading.Event()
        self.came = threading.Event()
        """Somebody has asked."""

    def answer(self, body: dict[str, object]) -> dict[str, object]:
        given = body["input"]
        texts = given if isinstance(given, list) and all(isinstance(each, str) for each in given) else [given]
        results = [self.result(text) for text in texts]
        return {"id": "modr-1", "model": body["model"], "results": results}

    def result(self, given: object) -> dict[str, object]:
        found: dict[str, float] = {}
        text = json.dumps(given)
        if "unwanted" in text:
            found["violence"] = 0.9
        if "novel" in text:
            found["novelty/very"] = 0.8
        if isinstance(given, list) and green(given[0]["image_url"]["url"]):
            found["sexual"] = 0.95
        names = {*CATEGORIES, *found}
        return {
            "flagged": bool(found),
            "categories": {name: name in found for name in names},
            "category_scores": {name: found.get(name, 0.001) for name in names},
        }


def green(url: str) -> bool:
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    r, g, b = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return g > r + 60 and g > b + 60


@contextmanager
def serving(double: Moderations) -> Iterator[str]:
    """Its address, as a base that clients take."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            double.asked.append(body["input"])
            double.keys.append(self.headers.get("authorization"))
            double.came.set()
            if double.fault == "hang":
                double.release.wait(60)
            status = int(double.fault) if (double.fault or "").isdigit() else 200
            answer = json.dumps({"results": []} if double.fault == "empty" else double.answer(body)).encode()
            if double.fault == "garbage":
                answer = b"<html>"
            self.send_response(status if self.path == "/v1/moderations" else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        double.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
