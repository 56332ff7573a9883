"""A full disk fails jobs cleanly, leaves nothing half-written, and is forgotten when there is room again."""

import asyncio
import contextlib
import os
import secrets
import subprocess
from pathlib import Path

import httpx
import pytest

from pipelines.contract.request import ImageRequest, Sampling
from server.db.assets import SqlAssets
from server.db.database import Database, beside
from server.db.jobs import SqlJobs
from server.db.migrating import migrate
from server.db.webhooks import Outbox
from server.domain.asset import Delivery, Format
from server.domain.clock import SystemClock
from server.domain.failures import StorageFull
from server.domain.job import JobState, Order
from server.gateway.finish import Gateway
from server.jobs.admission import Admission
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics
from tests.doubles.stores import Quota, stored_in

BODY = {"prompt": "a cat", "count": 4, "size": "64x64", "steps": 1, "output": {"format": "png"}}


@contextlib.contextmanager
def mounted(folder, size):
    """A tmpfs of that many bytes at ``folder``; skips the test if this user may not mount one."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path, left: int) -> Path:
    """Write a file that leaves about ``left`` bytes of room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    size = filler.stat().st_size
    with filler.open("r+b") as file:
        file.truncate(max(0, size - left))
    return filler


def files(folder: Path) -> list[Path]:
    # Folders may go while one looks, and `Path.rglob` would stumble over that.
    return [Path(at, name) for at, _, names in os.walk(folder) for name in names if name != "filler"]


def test_a_server_whose_results_do_not_fit(serve, tmp_path, until):
    with mounted(tmp_path / "results", 1 << 20) as folder:
        server = serve("--storage-url", f"file://{folder}").until_ready()
        assert server.client.post("/api/generate", json=BODY).status_code == 200
        kept = files(folder)
        filler = fill(folder, 0)
        refused = server.client.post("/api/generate", json={**BODY, "prompt": "a dog"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full"), refused.text
        assert refused.json()["error"]["retryable"]
        assert int(refused.headers["retry-after"]) > 0
        job = server.client.post("/api/jobs", json=BODY).json()["id"]
        until(lambda: server.client.get(f"/api/jobs/{job}").json()["state"] == "failed")
        assert server.client.get(f"/api/jobs/{job}").json()["error"]["code"] == "storage_full"
        assert files(folder) == kept
        filler.unlink()
        image = server.client.post("/api/generate", json=BODY).json()["images"][0]
        assert httpx.get(image["url"]).status_code == 200
        assert server.stop() == 0


def test_a_server_whose_database_is_full(launch, tmp_path, until):
    with mounted(tmp_path / "server", 4 << 20) as folder:
        server = launch(folder, env={"AQUATINT_LOG_LEVEL": "error"}).until_ready()
        try:
            first = server.client.post("/api/jobs", json=BODY).json()["id"]
            until(lambda: server.client.get(f"/api/jobs/{first}").json()["state"] == "succeeded")
            filler = fill(folder, 0)
            # SQLite writes into the room that its log has already; when that is used up it says so.
            refused = until(lambda: (answer := server.client.post("/api/jobs", json=BODY)).status_code == 507 and answer)
            assert refused.json()["error"]["code"] == "storage_full"
            filler.unlink()
            job = until(lambda: server.client.post("/api/jobs", json=BODY).json().get("id"))
            until(lambda: server.client.get(f"/api/jobs/{job}").json()["state"] == "succeeded", 60)
            assert server.client.get(f"/api/jobs/{first}").json()["state"] == "succeeded"
        finally:
            server.stop()


class Bench:
    """Jobs whose results go where there is only so much room."""

    def __init__(self, folder, room):
        self.folder, self.clock, metrics = folder / "results", SystemClock(), Metrics()
        self.quota = Quota(self.folder, room)
        self.database = Database(beside(folder))
        self.store = stored_in(self.folder, self.database, self.clock, place=self.quota.place)
        rows = SqlAssets(self.database)
        self.collector = Collector(rows, Bucket(self.quota.place, silent()), self.clock, silent(), budget=1 << 30)
        self.jobs = JobService(
            Gateway(FunctionProvider(), self.store, metrics),
            SqlJobs(self.database, self.clock, Outbox(nothing)),
            Admission(64, metrics),
            clock=self.clock,
            metrics=metrics,
            log=silent(),
        )

    async def made(self, images=4):
        sampling = Sampling("euler", 1, 1.0)
        seeds = tuple(secrets.randbelow(1 << 24) for _ in range(images))
        request = ImageRequest(secrets.token_hex(4), "m", "p", 32, 32, seeds, sampling)
        return await self.jobs.wait(await self.jobs.submit(Order(request, Delivery(Format.PNG))))


async def nothing(_job):
    return b""


async def test_a_job_whose_last_picture_does_not_fit_leaves_none(tmp_path):
    bench = Bench(tmp_path, 1 << 20)
    await migrate(bench.database)
    async with bench.jobs.running():
        good = await bench.made()
        used = sum(file.stat().st_size for file in files(bench.folder))
        bench.quota.room = used + used // 2
        bad = await bench.made()
        assert (bad.state, bad.error.code, bad.error.to_exception().retryable) == (JobState.FAILED, "storage_full", True)
        assert isinstance(bad.error.to_exception(), StorageFull)
        await bench.collector.collect()
        assert sum(file.stat().st_size for file in files(bench.folder)) == used
        (held,) = await bench.collector.holdings()
        assert (held.assets, held.bytes) == (4, used)
        bench.quota.room = 1 << 20
        assert (await bench.made()).state is JobState.SUCCEEDED
        assert all([await bench.store.get(asset.name) for asset in good.assets])
    await bench.database.close()


async def test_many_jobs_on_the_brink(tmp_path):
    bench = Bench(tmp_path, 3000)
    await migrate(bench.database)
    async with bench.jobs.running():
        ended = await asyncio.gather(*(bench.made(2) for _ in range(12)))
        states = {job.state for job in ended}
        assert states <= {JobState.SUCCEEDED, JobState.FAILED}
        assert JobState.FAILED in states
        await bench.collector.collect()
        kept = {asset.path for job in ended for asset in job.assets}
        assert {file.relative_to(bench.folder).as_posix() for file in files(bench.folder)} == kept
    await bench.database.close()
