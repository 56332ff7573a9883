"""The outbox and the courier, on both databases, with a real receiver that verifies what it gets."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpcore
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pipelines.contract.errors import EngineFailure
from pipelines.contract.request import ImageRequest, Sampling
from server.db.jobs import SqlJobs
from server.db.webhooks import Outbox, SqlDeliveries
from server.domain.asset import Asset, Format
from server.domain.clock import SetClock, SystemClock
from server.domain.job import Job, JobState, Order
from server.domain.transitions import CancelAsked, Dropped, Failed, Succeeded
from server.domain.webhook import DeliveryState, Notify
from server.egress.addresses import Allowed, networks
from server.egress.guarded import GuardedBackend
from server.jobs.webhooks import SCHEDULE, Courier, compose
from server.telemetry.logs import silent

OLD, NEW = ("whsec_" + letter * 32 for letter in "AB")
ASSET = Asset("name.png", Format.PNG, 8, 9, 7, 99)


async def link(base, asset):
    return f"{base}/outputs/{asset.name}"


class Receiver:
    """An HTTP server that answers as told and keeps what it got."""

    def __init__(self, *answers):
        self.answers, self.got, self.arrived = list(answers), [], asyncio.Event()

    @asynccontextmanager
    async def listening(self):
        server = await asyncio.start_server(self._hear, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
            yield self

    async def _hear(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        answer = self.answers.pop(0) if self.answers else "200 OK"
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.arrived.set()


class Bench:
    def __init__(self, database, clock=None):
        self.clock = clock or SetClock(1_800_000_000.0)
        self.jobs = SqlJobs(database, self.clock, Outbox(lambda job: compose(job, link)))
        self.deliveries = SqlDeliveries(database, self.clock)

    async def ended(self, name, url, happening=None):
        request = ImageRequest(id=name, model="m", prompt="p", width=8, height=8, seeds=(7,), sampling=Sampling("euler", 4, 1.0))
        order = Order(request, tenant="t", notify=None if url is None else Notify(url, "https://pictures.example"))
        await self.jobs.add(Job(name, order, JobState.QUEUED, 1_799_999_990.0, durable=True))
        await self.jobs.claim("me", 2e9, 9)
        await self.jobs.happen(name, happening or Succeeded((ASSET,)), owner="me")

    @asynccontextmanager
    async def courier(self, *, allowed="127.0.0.1", secrets=(OLD,)):
        fence = GuardedBackend(Allowed(networks(allowed)))
        pool = httpcore.AsyncConnectionPool(network_backend=fence)
        async with Courier(
            self.deliveries, pool, secrets, clock=self.clock, log=silent(), spread=lambda: 0.5
        ).running() as courier:
            yield courier

    async def until(self, state, name):
        """The message about a job, once it is in ``state``."""
        while True:
            (found,) = await self.deliveries.newest(9, job_id=name)
            if found.state is state:
                return found
            await asyncio.sleep(0.01)

    async def after(self, attempts, name):
        while True:
            (found,) = await self.deliveries.newest(9, job_id=name)
            if found.attempts >= attempts:
                return found
            await asyncio.sleep(0.01)


@pytest.fixture
def bench(database):
    return Bench(database)


async def test_a_receiver_can_verify_what_it_is_told(database):
    bench = Bench(database, SystemClock())  # receivers do not believe old timestamps
    async with Receiver().listening() as receiver:
        await bench.ended("a", receiver.url)
        async with bench.courier(secrets=(OLD, NEW)):
            told = await bench.until(DeliveryState.DELIVERED, "a")
    ((headers, body),) = receiver.got
    for secret in (OLD, NEW):
        said = Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "C" * 32).verify(body, headers)
    assert headers["webhook-id"] == told.id
    assert said["type"] == "job.succeeded"
    assert said["data"]["images"] == [{"url": "https://pictures.example/outputs/name.png", "seed": 7, "width": 8, "height": 9}]
    assert said["data"]["error"] is None
    assert (told.attempts, told.outcome, told.body) == (1, "200", body)


async def test_each_end_is_told_once_and_only_to_whom_it_concerns(bench):
    url = "http://receiver.example/"
    await bench.ended("good", url)
    await bench.ended("bad", url, Failed(EngineFailure("broken").report()))
    await bench.ended("nobody", None)
    await bench.ended("dropped", url, Dropped())
    assert await bench.jobs.happen("good", CancelAsked())
    found = {each.job_id: json.loads(each.body) for each in await bench.deliveries.newest(9)}
    assert set(found) == {"good", "bad"}
    assert found["bad"]["type"] == "job.failed"
    assert found["bad"]["data"]["error"] == {"code": "engine_failure", "message": "broken"}
    await bench.jobs.happen("dropped", CancelAsked())
    assert json.loads((await bench.deliveries.newest(1, job_id="dropped"))[0].body)["type"] == "job.cancelled"


async def test_failures_are_tried_again_on_schedule_with_the_same_id(bench):
    answers = ["500 No", "302 Found\r\nLocation: http://127.0.0.1:1/", "429 Slow\r\nRetry-After: 900", "200 OK"]
    async with Receiver(*answers).listening() as receiver:
        await bench.ended("a", receiver.url)
        began = bench.clock.time()
        async with bench.courier() as courier:
            dues = []
            for attempt in range(1, 4):
                pending = await bench.after(attempt, "a")
                dues.append(pending.due - bench.clock.time())
                bench.clock.advance(dues[-1] + 0.1)
                courier.look()
            done = await bench.until(DeliveryState.DELIVERED, "a")
    assert dues == pytest.approx([SCHEDULE[1] * 1.05, SCHEDULE[2] * 1.05, SCHEDULE[3] * 1.05])
    assert done.attempts == 4
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 4
    assert len({body for _, body in receiver.got}) == 1
    assert bench.clock.time() > began


async def test_a_receiver_that_asks_for_time_gets_it(bench):
    async with Receiver("503 Later\r\nRetry-After: 4000").listening() as receiver:
        await bench.ended("a", receiver.url)
        async with bench.courier():
            pending = await bench.after(1, "a")
    assert pending.due - bench.clock.time() == 4000.0


async def test_after_the_last_attempt_it_is_given_up_and_can_be_sent_again_by_hand(bench):
    async with Receiver(*["500 No"] * len(SCHEDULE)).listening() as receiver:
        await bench.ended("a", receiver.url)
        async with bench.courier() as courier:
            for attempt in range(1, len(SCHEDULE)):
                pending = await bench.after(attempt, "a")
                bench.clock.now = pending.due + 0.1
                courier.look()
            given_up = await bench.until(DeliveryState.FAILED, "a")
            assert len(receiver.got) == given_up.attempts == len(SCHEDULE)
            assert await bench.deliveries.again("nothing") is None
            assert (await bench.deliveries.again(given_up.id)).id == given_up.id
            courier.look()
            assert (await bench.until(DeliveryState.DELIVERED, "a")).attempts == 1


async def test_whoever_is_gone_hears_nothing_any_more(bench):
    async with Receiver("410 Gone").listening() as receiver:
        await bench.ended("a", receiver.url)
        async with bench.courier() as courier:
            await bench.until(DeliveryState.DISABLED, "a")
            await bench.ended("elsewhere", receiver.url.replace("/hook", "/other"))
            courier.look()
            await bench.until(DeliveryState.DELIVERED, "elsewhere")
    assert len(receiver.got) == 2


async def test_private_addresses_are_refused_and_nothing_is_sent(bench):
    async with Receiver().listening() as receiver:
        await bench.ended("a", receiver.url)
        async with bench.courier(allowed=""):
            pending = await bench.after(1, "a")
    assert (pending.state, receiver.got) == (DeliveryState.PENDING, [])
    assert "not public" in pending.outcome


async def test_nobody_there_and_nonsense_are_noted(bench):
    await bench.ended("refused", "http://127.0.0.1:1/")
    await bench.ended("scheme", "ftp://127.0.0.1/")
    async with bench.courier():
        assert "ConnectError" in (await bench.after(1, "refused")).outcome
        assert "UnsupportedProtocol" in (await bench.after(1, "scheme")).outcome


async def test_an_address_that_cannot_be_resolved_holds_up_nobody(bench):
    hosts = [
        "http://a..example/",
        f"http://{'a' * 64}.example/",
        f"http://10.0.0.1{'/' * 9}",
        "http://\u00fc..x/",
        "http://[::1/",
    ]
    async with Receiver().listening() as receiver:
        for index, url in enumerate(hosts):
            await bench.ended(f"bad{index}", url)
        await bench.ended("good", receiver.url)
        async with bench.courier():
            await bench.until(DeliveryState.DELIVERED, "good")
            for index in range(len(hosts)):
                told = await bench.after(1, f"bad{index}")
                assert (told.state, 0 < len(told.outcome) <= 512) == (DeliveryState.PENDING, True)


async def test_what_is_noted_fits_its_column(bench):
    async def failing(_host, _port):
        raise OSError("x" * 2000)

    await bench.ended("a", "http://receiver.example/")
    pool = httpcore.AsyncConnectionPool(network_backend=GuardedBackend(Allowed(), failing))
    async with Courier(bench.deliveries, pool, (), clock=bench.clock, log=silent()).running():
        assert len((await bench.after(1, "a")).outcome) == 512


async def test_settled_messages_are_forgotten_and_pending_ones_are_not(bench):
    async with Receiver("200 OK", "500 No").listening() as receiver:
        await bench.ended("told", receiver.url)
        async with bench.courier():
            await bench.until(DeliveryState.DELIVERED, "told")
        await bench.ended("to be told", receiver.url)
        bench.clock.advance(1.0)
        await bench.jobs.forget(bench.clock.time())
        assert [each.job_id for each in await bench.deliveries.newest(9)] == ["to be told"]
        assert await bench.jobs.get("to be told") is None


async def test_two_couriers_send_each_message_once(database):
    bench = Bench(database)
    async with Receiver().listening() as receiver:
        for index in range(30):
            await bench.ended(f"j{index}", receiver.url)
        async with bench.courier(), bench.courier():
            for index in range(30):
                await bench.until(DeliveryState.DELIVERED, f"j{index}")
    assert len(receiver.got) == 30
