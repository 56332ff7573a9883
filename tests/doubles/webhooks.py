"""Servers that are killed, and a receiver that outlives them."""

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook

SECRET = "whsec_" + "K" * 32
"""What servers sign with; the receiver takes nothing else."""
FLAGS = ("--webhook-networks", "127.0.0.1")
ENV = {"AQUATINT_WEBHOOK_SECRETS": SECRET}


class Receiver:
    """Verifies what it is told, and keeps it by message: one that comes twice counts once."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                said = Webhook(SECRET).verify(body, headers)
                with receiver._lock:
                    receiver.told[headers["webhook-id"]] = said
                self.send_response(204)
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def pids(server: Any) -> list[int]:
    """Of a server and its workers."""
    return [server.process.pid, *(worker["pid"] for worker in server.ready()["workers"] if worker["pid"])]


def kill(server: Any, doomed: list[int] | None = None) -> None:
    """SIGKILL for the server and its workers, in one go; ``doomed``: their `pids`, if those were asked for before."""
    for pid in pids(server) if doomed is None else doomed:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    server.client.close()
