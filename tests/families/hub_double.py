"""A hub of one repository on this machine, as much of it as huggingface_hub asks for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own


class Hub:
    """``files`` of the repository ``org/model``; those that end in .safetensors lie in LFS. Notes who asked for what."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str, str | None]] = []
        self.corrupt: set[str] = set()
        self.gated = False

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": path, "size": len(data), "oid": git_id(data)}
            | ({"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if lfs(path) else {})
            for path, data in self.files.items()
        ]

    def etag(self, path: str) -> str:
        data = self.files[path]
        return hashlib.sha256(data).hexdigest() if lfs(path) else git_id(data)

    def answer(self, path: str, *, download: bool) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for ``path``."""
        if self.gated:
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        if path.startswith("/api/models/org/model/tree/"):
            return 200, json.dumps(self.tree()).encode(), {}
        if path.startswith("/api/models/org/model"):
            if path.rpartition("/")[2] in {"model", "main", COMMIT}:
                return 200, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": []}).encode(), {}
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        if path.startswith("/org/model/resolve/"):
            name = path.split("/", 5)[5]
            data = bytes(len(self.files[name])) if name in self.corrupt and download else self.files[name]
            return 200, data, {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": COMMIT}
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}


def lfs(path: str) -> bool:
    return path.endswith(".safetensors")


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The double's address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("authorization")))
            self._send(*hub.answer(path, download=self.command == "GET"))

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
