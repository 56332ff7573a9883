"""The servers under test: each a process of its own, started once, idle while another one is measured."""

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
LISTENING = re.compile(r"listening on (http://\S+)")
START_SECONDS = 300.0


class Server:
    """One server process; ``url`` is known once `wait_ready` has returned."""

    def __init__(self, name: str, command: list[str], threads: int, folder: Path) -> None:
        """Start it; everything it prints goes to a log in ``folder``."""
        self.name = name
        self.url = ""
        self.log = folder / f"{re.sub(r'[^a-z]+', '-', name.lower())}.log"
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "AQUATINT_HOME": str(folder / "home"),
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait_ready(self) -> None:
        """Return once /readyz answers 200; raises `RuntimeError` with the log's tail when the server leaves or hangs."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.process.wait(0.25)
            except subprocess.TimeoutExpired:
                if self._ready():
                    return
            else:
                break
        message = f"{self.name} did not start; the end of {self.log}:\n{self.log.read_text(errors='replace')[-3000:]}"
        raise RuntimeError(message)

    def _ready(self) -> bool:
        found = LISTENING.search(self.log.read_text(errors="replace"))
        if found is None:
            return False
        self.url = found[1]
        try:
            return self.get("/readyz")[0] == http.client.OK
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stop(self) -> int:
        """End it kindly, then for certain; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Ticks:
    """What Aquatint's /metrics say of its denoising ticks; differences of two readings describe a round."""

    def __init__(self, server: Server) -> None:
        """Read the counters of ``server`` now."""
        self.server = server
        self.before = self._read()

    def _read(self) -> Counter[str]:
        status, text = self.server.get("/metrics")
        return totals(text) if status == http.client.OK else Counter()

    def since(self) -> dict[str, float]:
        """Ticks, rows and padding since this object was made, and the mean of rows per tick."""
        now = self._read()
        spent = {name: now[name] - self.before[name] for name in now}
        ticks = spent.get("ticks", 0.0)
        return spent | ({"rows_per_tick": spent.get("evaluations", 0.0) / ticks} if ticks else {})


COUNTERS: Mapping[str, str] = {
    "aquatint_tick_seconds_count": "ticks",
    "aquatint_tick_seconds_sum": "seconds",
    "aquatint_tick_evaluations_total": "evaluations",
    "aquatint_tick_padding_total": "padding",
}


def totals(text: str) -> Counter[str]:
    """The counters of the denoising phase in a Prometheus page, summed over models and workers."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTERS and sample.labels.get("phase", "denoise") == "denoise":
                found[COUNTERS[sample.name]] += sample.value
    return found


def aquatint(device: str = "cpu") -> list[str]:
    """The command that serves Aquatint on a free port."""
    program = str(Path(sys.executable).with_name("aquatint"))
    # Pictures that come from the cache would say nothing about making them.
    return [program, "serve", "--host", "127.0.0.1", "--port", "0", "--device", device, "--cache-bytes", "0"]


def baseline(name: str, threads: int) -> list[str]:
    """The command that serves one of the baselines on a free port."""
    return [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--port", "0", "--threads", str(threads)]


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for logs and for Aquatint's state, gone after the run."""
    return tempfile.TemporaryDirectory(prefix="aquatint-benchmark-")
