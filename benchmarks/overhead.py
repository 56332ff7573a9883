"""What the server itself costs: a cache hit, the acceptance of a job, and what is added to a picture of an upstream.

    python benchmarks/overhead.py --litellm litellm    about four minutes; without the option LiteLLM is left out
    python benchmarks/overhead.py --quick              half a minute
    python benchmarks/overhead.py --smoke              seconds, figures without meaning

One server on a core of its own, the fake device and the clients on the others. Clients are a closed loop: each always has one
request in flight. What is compared takes turns, a slice each, so that whatever else the machine does meanwhile meets all alike;
ratios are taken within a turn, and their median counts. The empty handler has the guard, the tracing, the log and the metrics
that the others have, and gets the same bodies. CPU time is that of the server's process, its threads included.
"""

import argparse
import asyncio
import cProfile
import datetime as dt
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import proxied
import uvloop
from litestar import Request, Response, post
from openai import AsyncOpenAI
from servers import ROOT, Server, scratch
from wire import Wire, percentile

from server.api.guard import key_guard
from server.api.serve import serve
from server.app import application, assemble
from server.db.migrating import migrate
from server.settings import Settings
from server.telemetry.logs import configure

RESULTS = ROOT / "benchmarks" / "results"
MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 1, guidance: 1.0, sampler: euler}}
  busy: {source: "fake:?tick=5", family: fake, defaults: {width: 64, height: 64, steps: 50, guidance: 1.0, sampler: euler}}
upstreams:
  elsewhere: {kind: openai, base_url: "%s/v1", model: gpt-image-2, key_env: AQUATINT_BENCHMARK_KEY}
"""
EMPTY, HIT, NATIVE, SUBMIT = "empty handler", "hit, /v1/images/generations", "hit, /api/generate", "submit, /api/jobs"
MADE = "submit, and made meanwhile"
OPENAI_BODY = {"prompt": "a red circle on a white background", "seed": 7, "response_format": "url"}
NATIVE_BODY = {"prompt": "a red circle on a white background", "seed": 7}
MOST_RATIO, MOST_SUBMIT = 4.0, 0.010
"""What was promised: a hit over an empty handler, and seconds of a submit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    turns: int
    seconds: float
    """Of each slice."""
    clients: int
    submitters: int
    """Clients that submit jobs."""
    rounds: int
    """Pictures of the upstream, by each road."""


FULL = Plan(turns=9, seconds=4.0, clients=8, submitters=2, rounds=400)
QUICK = Plan(turns=4, seconds=1.5, clients=8, submitters=2, rounds=100)
SMOKE = Plan(turns=1, seconds=0.3, clients=2, submitters=1, rounds=3)


@dataclass(slots=True)
class Tally:
    """What one address was measured at, turn by turn."""

    latencies: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU time of the server's process for each request."""

    def p50(self, turn: int) -> float:
        """Seconds, of one turn."""
        return percentile(self.latencies[turn], 0.5)

    @property
    def all(self) -> list[float]:
        """The latencies of every turn."""
        return [each for turn in self.latencies for each in turn]


def say(text: str) -> None:
    """A progress line."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Slice:
    """What is sent, by how many clients, and what every head of an answer must contain."""

    path: str
    bodies: Iterator[dict[str, Any]]
    clients: int
    wanted: bytes


async def closed_loop(url: str, work: Slice, seconds: float) -> Tally:
    """One slice, without a pause."""
    latencies: list[float] = []

    async def one(until: float) -> None:
        wire = await Wire.open(url)
        while time.perf_counter() < until:
            message = wire.request(work.path, next(work.bodies))
            began = time.perf_counter()
            head, body = await wire.exchange(message)
            latencies.append(time.perf_counter() - began)
            if work.wanted not in head:
                problem = f"{work.path} answered {head.decode()}{body[:300].decode()}"
                raise RuntimeError(problem)
        wire.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(work.clients):
            group.create_task(one(began + seconds))
    return Tally([latencies], [len(latencies) / (time.perf_counter() - began)])


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, its threads included, its children not."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(server: Server, plan: Plan) -> dict[str, Tally]:
    """Everything, in turns."""

    def always(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            yield body

    slices = {
        EMPTY: Slice("/v1/empty", always(OPENAI_BODY), plan.clients, b" 200 "),
        HIT: Slice("/v1/images/generations", always(OPENAI_BODY), plan.clients, b"x-aquatint-cache: hit"),
        NATIVE: Slice("/api/generate", always(NATIVE_BODY), plan.clients, b"x-aquatint-cache: hit"),
        MADE: Slice("/api/jobs", new("quick"), plan.submitters, b" 202 "),
    }
    wire = await Wire.open(server.url)
    await wire.exchange(wire.request("/api/generate", NATIVE_BODY))  # the picture that the hits give again
    wire.close()
    for work in slices.values():
        await closed_loop(server.url, work, min(plan.seconds, 1.0))
    tallies = {name: Tally() for name in slices}
    for turn in range(plan.turns):
        for name, work in slices.items():
            await idle(server)
            before = cpu_seconds(server.process.pid)
            found = await closed_loop(server.url, work, plan.seconds)
            tallies[name].cpu.append((cpu_seconds(server.process.pid) - before) / len(found.all))
            tallies[name].latencies += found.latencies
            tallies[name].rates += found.rates
        shown = ", ".join(f"{name} {tally.p50(turn) * 1000:.2f} ms" for name, tally in tallies.items())
        say(f"turn {turn + 1} of {plan.turns}: {shown}")
    return tallies


async def accept(server: Server, plan: Plan) -> dict[str, Tally]:
    """Submits to a device that has other things to do: they are still there at the end, so nothing can be measured after them."""
    before = cpu_seconds(server.process.pid)
    accepted = await closed_loop(server.url, Slice("/api/jobs", new("busy"), plan.submitters, b" 202 "), 2 * plan.seconds)
    accepted.cpu.append((cpu_seconds(server.process.pid) - before) / len(accepted.all))
    return {SUBMIT: accepted}


def new(model: str) -> Iterator[dict[str, Any]]:
    """Bodies of jobs, no two alike."""
    for number in count():
        yield {"prompt": f"job {number}", "model": model}


async def idle(server: Server) -> None:
    """Return once no job is left that was submitted before."""
    while any(jobs(server, state) for state in ("queued", "running")):  # noqa: ASYNC110 - another process's
        await asyncio.sleep(0.05)


def jobs(server: Server, state: str) -> list[Any]:
    """One of its jobs in ``state``, if there are any."""
    found: list[Any] = json.loads(server.get(f"/api/jobs?limit=1&state={state}")[1])["data"]
    return found


def summary(tallies: dict[str, Tally], plan: Plan) -> list[dict[str, Any]]:
    """The figures of each address."""
    lines = []
    for name, tally in tallies.items():
        # With another number of clients it would compare queues, not work.
        comparable = name in (EMPTY, HIT, NATIVE)
        ratios = [tally.p50(turn) / tallies[EMPTY].p50(turn) for turn in range(plan.turns)] if comparable else []
        lines.append(
            {
                "what": name,
                "clients": plan.clients if comparable else plan.submitters,
                "requests": len(tally.all),
                "p50_ms": percentile(tally.all, 0.5) * 1000,
                "p99_ms": percentile(tally.all, 0.99) * 1000,
                "per_second": median(tally.rates),
                "cpu_ms": median(tally.cpu) * 1000,
                "times_empty": median(ratios) if comparable else None,
            }
        )
    return lines


def text(found: dict[str, Any]) -> str:
    """The tables, in Markdown that also reads well on a terminal."""
    box = found["machine"]
    rows = [*(_costs(found["lines"]) if found["lines"] else ()), proxied.text(found["proxied"]), ""]
    return "\n".join([*rows, f"Measured {box['when'][:10]} at {box['commit']}, load before {box['load_before']}."])


def _costs(lines: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| one core | clients | p50 ms | p99 ms | requests/s | CPU ms each | p50, times the empty handler |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for line in lines:
        ratio = "" if line["times_empty"] is None else f"{line['times_empty']:.2f}"
        figures = f"{line['p50_ms']:.2f} | {line['p99_ms']:.2f} | {line['per_second']:.0f} | {line['cpu_ms']:.2f}"
        rows.append(f"| {line['what']} | {line['clients']} | {figures} | {ratio} |")
    by_name = {line["what"]: line for line in lines}
    worst = max(by_name[name]["times_empty"] for name in (HIT, NATIVE))
    submit = by_name[SUBMIT]["p50_ms"]
    return [
        *rows,
        "",
        f"A hit costs {worst:.2f} times an empty handler (promised: {MOST_RATIO:g} at most): {_met(worst <= MOST_RATIO)}.",
        f"A submit takes {submit:.2f} ms (promised: {MOST_SUBMIT * 1000:g} at most): {_met(submit <= MOST_SUBMIT * 1000)}.",
        "",
    ]


def _met(kept: bool) -> str:  # noqa: FBT001 - the one thing there is to say
    return "met" if kept else "missed"


def _said(word: str) -> str:
    """``word`` of a command; where a machine has its programs is nobody else's business."""
    return Path(word).name if Path(word).is_absolute() else word


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", "benchmarks/overhead.py", *map(_said, sys.argv[1:])]),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def host(home: Path, upstream: str, profile: Path | None) -> None:
    """The server under test, with an empty handler beside its own; everything else is as ``aquatint serve`` has it."""
    cores = sorted(os.sched_getaffinity(0))
    os.environ["AQUATINT_BENCHMARK_KEY"] = "sk-double"
    (home / "models.yaml").write_text(MODELS % upstream, encoding="utf-8")
    settings = Settings(home=home, models=home / "models.yaml", port=0, devices=("fake",))

    @post("/v1/empty", status_code=200)
    async def empty() -> dict[str, str]:
        return {}

    sdk = AsyncOpenAI(base_url=f"{upstream}/v1", api_key="sk-double", max_retries=0)

    @post(proxied.BARE_PATH, status_code=200)
    async def bare(request: Request[Any, Any, Any]) -> Response[bytes]:
        raw = await sdk.images.with_raw_response.generate(**msgspec.json.decode(await request.body()))
        return Response(raw.content, media_type="application/json")

    async def run() -> None:
        log = configure(settings.log_format, settings.log_level)
        parts = assemble(settings, log)
        await migrate(parts.database)
        app = application(parts)
        for handler in (empty, bare):
            handler.guards = [key_guard(parts.keys)]
            app.register(handler)
        os.sched_setaffinity(0, cores[:1])
        await serve(app, parts.jobs, host="127.0.0.1", port=0, drain_seconds=5.0, log=log)

    if profile is None:
        uvloop.run(run())
    else:
        cProfile.runctx("uvloop.run(run())", globals(), {"run": run}, str(profile))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--smoke", action="store_true", help="a handful of requests, to see that the program works")
    parser.add_argument("--results", type=Path, default=RESULTS / "overhead.json")
    parser.add_argument("--profile", type=Path, help="write cProfile's figures of the server there; nothing else then means much")
    parser.add_argument("--litellm", help="the command of LiteLLM's proxy (litellm[proxy]), to be measured beside ours")
    parser.add_argument("--only-proxied", action="store_true", help="leave out all but the pictures of an upstream")
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.host is not None:
        host(arguments.host, arguments.upstream, arguments.profile)
        return
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    with scratch() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        profile = [] if arguments.profile is None else ["--profile", str(arguments.profile.absolute())]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped then too
        cores = sorted(os.sched_getaffinity(0))
        double = proxied.double(Path(folder))
        others = []
        command = [sys.executable, __file__, "--host", str(home), "--upstream", double.url, *profile]
        server = Server("Aquatint", command, 1, Path(folder))
        try:
            server.wait_ready()
            roads = {
                proxied.DIRECT: proxied.Road(double.url, proxied.MODEL),
                proxied.BARE: proxied.Road(server.url, proxied.MODEL, proxied.BARE_PATH),
                proxied.OURS: proxied.Road(server.url, f"elsewhere/{proxied.MODEL}"),
            }
            if arguments.litellm:
                say("starting LiteLLM")
                others.append(proxied.litellm(arguments.litellm, double.url, Path(folder), cores[0]))
                roads[proxied.LITELLM] = proxied.Road(others[0].url, proxied.MODEL)
            os.sched_setaffinity(0, cores[1:] or cores)
            found: dict[str, Any] = {"machine": machine(), "plan": asdict(plan), "lines": []}
            tallies = {} if arguments.only_proxied else asyncio.run(measure(server, plan))
            say("pictures of an upstream")
            latencies = asyncio.run(proxied.measure(roads, plan.rounds))
            if tallies:
                found["lines"] = summary({**tallies, **asyncio.run(accept(server, plan))}, plan)
            version = proxied.version(arguments.litellm) if arguments.litellm else None
            found["proxied"] = proxied.summary(latencies, version)
        finally:
            server.stop()
            for child in (double, *others):
                child.stop()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {arguments.results}")
    print()
    print(text(found))


if __name__ == "__main__":
    main()
