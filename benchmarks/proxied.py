"""What a proxy adds to a picture of an upstream: one request to the upstream itself, through us, and through LiteLLM's proxy.

Used by `overhead.py`. The upstream is its double, which answers at once, so that what is left is the proxy's. All take
turns request by request, with one client, and what is added is the median of the differences within a round. What there is no
getting around is measured beside it: a handler of our server that asks by OpenAI's SDK and passes the answer on unseen. LiteLLM
is measured if its command is given; it runs on the same core as our server does, with no database and nothing switched on.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from servers import LISTENING, ROOT, START_SECONDS
from wire import Wire, percentile

DIRECT, BARE, OURS, LITELLM = "the upstream itself", "an empty handler with the SDK", "through Aquatint", "through LiteLLM"
MOST_ADDED, MOST_OF_LITELLM = 0.003, 0.5
"""What was promised: seconds added, and as a share of what LiteLLM adds."""
MODEL = "gpt-image-2"
BARE_PATH = "/v1/bare"
_KEY = "sk-double"


class Child:
    """A process beside the server under test; ``url`` is where it answers."""

    def __init__(self, command: list[str], log: Path, core: int | None, environment: Mapping[str, str] | None = None) -> None:
        """Start it, on one core or on all."""
        pin = ["taskset", "-c", str(core)] if core is not None else []
        self.url, self.log = "", log
        own = {**os.environ, **(environment or {})}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*pin, *command],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=own,
            )

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def double(folder: Path) -> Child:
    """The double of OpenAI's Images API, on a free port."""
    child = Child([sys.executable, "-m", "tests.doubles.openai", "--port", "0"], folder / "double.log", None)
    child.url = _until(child, lambda: (found := LISTENING.search(child.log.read_text(errors="replace"))) and found[1])
    return child


def litellm(command: str, upstream: str, folder: Path, core: int | None) -> Child:
    """LiteLLM's proxy before ``upstream``."""
    config = folder / "litellm.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n"
        f"    litellm_params: {{model: openai/{MODEL}, api_base: {upstream}/v1, api_key: {_KEY}}}\n"
        "litellm_settings: {telemetry: false}\n",
        encoding="utf-8",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    own = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # open on loopback, as ours is
    }
    child = Child(words, folder / "litellm.log", core, own)
    child.url = f"http://127.0.0.1:{port}"
    _until(child, lambda: _listens(port))
    return child


def version(command: str) -> str:
    """What it says it is."""
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+\.\d+\S*", told)
    return found[0] if found else "?"


@dataclass(frozen=True, slots=True)
class Road:
    """Where a request goes, by which name of the model."""

    url: str
    model: str
    path: str = "/v1/images/generations"


async def measure(roads: Mapping[str, Road], rounds: int) -> dict[str, list[float]]:
    """Latencies of every road, in seconds, round by round."""
    wires = {name: await Wire.open(road.url) for name, road in roads.items()}
    found: dict[str, list[float]] = {name: [] for name in roads}
    for number in range(-5, rounds):  # a few to warm up
        for name, road in roads.items():
            body = {"model": road.model, "prompt": f'a poster that says "Number {number}"', "size": "1024x1024", "n": 1}
            message = wires[name].request(road.path, body, authorization=f"Bearer {_KEY}")
            began = time.perf_counter()
            head, answer = await wires[name].exchange(message)
            if number >= 0:
                found[name].append(time.perf_counter() - began)
            if b" 200 " not in head.split(b"\r\n", 1)[0] or b'"b64_json"' not in answer:
                problem = f"{name} answered {head.decode()}{answer[:500].decode(errors='replace')}"
                raise RuntimeError(problem)
    for wire in wires.values():
        wire.close()
    return found


def summary(found: Mapping[str, list[float]], litellm_version: str | None) -> dict[str, Any]:
    """The figures."""
    lines = []
    for name, latencies in found.items():
        added = [one - direct for one, direct in zip(latencies, found[DIRECT], strict=True)]
        lines.append(
            {
                "what": name,
                "requests": len(latencies),
                "p50_ms": percentile(latencies, 0.5) * 1000,
                "p99_ms": percentile(latencies, 0.99) * 1000,
                "added_ms": None if name == DIRECT else median(added) * 1000,
            }
        )
    return {"litellm": litellm_version, "lines": lines}


def text(found: Mapping[str, Any]) -> str:
    """The table, in Markdown."""
    rows = ["| one client, 1024x1024 | p50 ms | p99 ms | added, ms |", "|---|---:|---:|---:|"]
    added = {line["what"]: line["added_ms"] for line in found["lines"]}
    for line in found["lines"]:
        name = f"{line['what']} {found['litellm']}" if line["what"] == LITELLM else line["what"]
        more = "" if line["added_ms"] is None else f"{line['added_ms']:.2f}"
        rows.append(f"| {name} | {line['p50_ms']:.2f} | {line['p99_ms']:.2f} | {more} |")
    ours = added[OURS]
    rows += ["", f"Of what we add, {added[BARE]:.2f} ms are added by a handler that does nothing but ask by the SDK."]
    kept = "met" if ours <= MOST_ADDED * 1000 else "missed"
    rows += ["", f"We add {ours:.2f} ms to an upstream's picture (promised: {MOST_ADDED * 1000:g} at most): {kept}."]
    if LITELLM in added:
        share = ours / added[LITELLM]
        kept = "met" if share <= MOST_OF_LITELLM else "missed"
        rows.append(f"That is {share:.2f} of what LiteLLM adds (promised: {MOST_OF_LITELLM:g} at most): {kept}.")
    return "\n".join(rows)


def _until(child: Child, condition: Any) -> Any:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        try:
            child.process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    problem = f"it did not start:\n{child.log.read_text(errors='replace')[-3000:]}"
    raise RuntimeError(problem)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
