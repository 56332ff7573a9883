"""Jobs that somebody waits for are known at once, and written down a moment later; nothing is written over what others wrote."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from pipelines.contract.request import ImageRequest, Sampling
from server.db.jobs import SqlJobs
from server.db.webhooks import Outbox
from server.domain.clock import SetClock
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import JobFilter
from server.domain.transitions import Begun, CancelAsked, Dropped, IllegalTransition, Succeeded, advance
from server.domain.webhook import Notify
from server.jobs.journal import Journal, Writing
from server.telemetry.logs import silent

NOW = 1_800_000_000.0


async def told(job):
    return job.id.encode()


def running(name="a", *, durable=False, **fields):
    request = ImageRequest(name, "m", "a cat", 64, 64, (1,), Sampling("euler", 4, 4.0))
    job = Job(name, Order(request, tenant="one", **fields), JobState.QUEUED, NOW, durable=durable)
    return advance(job, Begun("me", NOW + 15), NOW)


class Away:
    """A repository that can be away."""

    def __init__(self, repository):
        self.repository, self.away, self.writes = repository, False, 0
        self.refused, self.wrote = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self.repository, name)

    async def record(self, jobs):
        self.writes += 1
        if self.away:
            if self.writes > 2:
                self.refused.set()
            raise OSError("the database is away")
        await self.repository.record(jobs)
        self.wrote.set()


@pytest.fixture
def rows(database):
    return Away(SqlJobs(database, SetClock(NOW), Outbox(told)))


@pytest.fixture
def journal(rows):
    return Journal(rows, SetClock(NOW), silent())


async def test_a_job_is_known_here_at_once_and_to_others_once_it_is_written(journal, rows):
    await journal.add(running())
    assert (await journal.get("a")).state is JobState.RUNNING
    assert await rows.get("a") is None
    await journal.settle()
    assert (await rows.get("a")).state is JobState.RUNNING
    ended = await journal.happen("a", Succeeded(()), owner="me")
    assert (ended.state, (await journal.get("a")).state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert (await rows.get("a")).state is JobState.RUNNING
    (page,) = (await journal.page(JobFilter("one"), None, 9)).jobs
    assert page.state is JobState.SUCCEEDED
    assert (await rows.get("a")) == await journal.get("a")


async def test_what_is_over_soon_is_written_once(journal, rows):
    for name in "abc":
        await journal.add(running(name))
        await journal.happen(name, Succeeded(()), owner="me")
    await journal.settle()
    assert rows.writes == 1
    assert {job.state for job in (await rows.page(JobFilter("one"), None, 9)).jobs} == {JobState.SUCCEEDED}


@pytest.mark.parametrize("fields", [{"durable": True}, {"notify": Notify("https://example.com/hook", "http://here")}])
async def test_what_was_promised_is_written_before_anything_else(journal, rows, fields):
    await journal.add(running(**fields))
    assert (await rows.get("a")).state is JobState.RUNNING
    await journal.happen("a", Succeeded(()), owner="me")
    assert (await rows.get("a")).state is JobState.SUCCEEDED


async def test_what_may_happen_is_the_same_as_to_rows(journal):
    await journal.add(running())
    assert await journal.happen("a", Succeeded(()), owner="another") is None
    assert (await journal.happen("a", CancelAsked())).cancel_asked
    assert (await journal.happen("a", Dropped(), owner="me")).state is JobState.CANCELLED
    assert (await journal.happen("a", CancelAsked())).state is JobState.CANCELLED
    with pytest.raises(IllegalTransition):
        await journal.happen("a", Succeeded(()))
    assert await journal.happen("unknown", CancelAsked()) is None


async def test_leases_are_renewed_of_what_was_just_begun(journal, rows):
    await journal.add(running())
    assert await journal.renew("me", ["a"], NOW + 30) == {"a": False}
    assert (await rows.get("a")).lease == NOW + 30
    await rows.happen("a", CancelAsked())  # asked of another server
    assert await journal.renew("me", ["a"], NOW + 45) == {"a": True}


async def test_what_another_server_wrote_of_a_silent_one_holds(journal, rows):
    await journal.add(running())
    await journal.settle()
    await rows.sweep(everybody=True)
    assert await journal.renew("me", ["a"], NOW + 30) == {}
    assert (await journal.get("a")).state is JobState.FAILED
    await journal.add(running("b"))
    await journal.settle()
    await rows.sweep(everybody=True)
    await journal.happen("b", Succeeded(()), owner="me")  # before anybody has told us
    await journal.settle()
    assert (await journal.get("b")).state is JobState.FAILED


async def test_a_job_that_is_over_can_be_deleted_at_once(journal):
    await journal.add(running())
    assert not await journal.delete("a")
    await journal.happen("a", Succeeded(()), owner="me")
    assert await journal.delete("a")
    assert await journal.get("a") is None


@asynccontextmanager
async def kept(journal):
    async with journal.running():
        yield


async def test_all_is_written_at_the_end(journal, rows):
    async with kept(journal):
        await journal.add(running())
        await journal.record([replace(running("hit"), state=JobState.SUCCEEDED)])
    assert [(await rows.get(name)).state for name in ("a", "hit")] == [JobState.RUNNING, JobState.SUCCEEDED]


async def test_a_database_that_comes_back_gets_it_all(rows):
    journal = Journal(rows, SetClock(NOW), silent(), Writing(linger=0.0, pause=0.0))
    rows.away = True
    async with kept(journal):
        await journal.add(running())
        await rows.refused.wait()
        assert (await journal.get("a")).state is JobState.RUNNING
        rows.away = False
        await rows.wrote.wait()
        assert (await rows.get("a")).state is JobState.RUNNING


async def test_no_more_is_kept_than_there_is_room_for_but_what_is_at_work(rows):
    journal = Journal(rows, SetClock(NOW), silent(), Writing(most=2))
    for name in "abc":
        await journal.add(running(name))
    for name in "abc":
        await journal.happen(name, Succeeded(()), owner="me")
    await journal.settle()
    found = [await rows.get(name) for name in "abc"]
    assert sum(job is not None for job in found) == 2
