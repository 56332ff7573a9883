"""Equal requests at the same time: one making, everybody is told, and nobody ends another's."""

import asyncio

import pytest
from msgspec.structs import replace

from pipelines.contract.errors import DeadlineExceeded, EngineFailure
from pipelines.contract.messages import Preview, Progress, RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Priority, Sampling
from server.domain.call import Call
from server.domain.clock import SetClock
from server.gateway.finish import Finished
from server.gateway.flights import Flights

DONE = Finished((), RunStats(0.0, 0.0, 0.0, 0.0, 4, 1.0))


def request(name, **fields):
    sampling = Sampling("euler", 4, 1.0)
    return ImageRequest(id=name, model="m", prompt="p", width=8, height=8, seeds=(1,), sampling=sampling, **fields)


class Bench:
    """Flights, and work that waits to be told how it ends."""

    def __init__(self):
        self.clock = SetClock(1000.0)
        self.flights = Flights(self.clock)
        self.begun, self.stopped = [], []
        self.ends = asyncio.Queue()
        self.calls = []

    async def work(self, request, call):
        self.begun.append(request.id)
        self.calls.append(call)
        try:
            end = await self.ends.get()
        except asyncio.CancelledError:
            self.stopped.append(request.id)
            raise
        if isinstance(end, BaseException):
            raise end
        return end

    @property
    def waiting(self):
        return sum(len(flight.members) for flight in self.flights._flights.values())

    async def ask(self, name, key="k", priority=Priority.NORMAL, emit=lambda _event: None, **fields):
        """The task of somebody who asks, once it waits."""
        call = Call(name, priority=priority, emit=emit)
        before = self.waiting
        task = asyncio.create_task(self.flights.join(key, request(name, **fields), call, self.work))
        await until(lambda: self.waiting != before or task.done())
        return task


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - anything may make it true
            await asyncio.sleep(0)


async def test_all_hear_of_one_making():
    own = Bench()
    tasks = [await own.ask(name) for name in "abc"]
    own.ends.put_nowait(DONE)
    landed = await asyncio.gather(*tasks)
    assert own.begun == ["a"]
    assert [each.finished for each in landed] == [DONE] * 3
    assert [(each.owner, each.payer) for each in landed] == [(True, True), (False, False), (False, False)]
    assert not own.flights.under_way("k", Priority.NORMAL)


async def test_who_leaves_takes_nobody_along():
    own = Bench()
    leader, second, third = [await own.ask(name) for name in "abc"]
    leader.cancel()
    third.cancel()
    await asyncio.wait([leader, third])
    assert (leader.cancelled(), third.cancelled(), own.stopped) == (True, True, [])
    own.ends.put_nowait(DONE)
    landed = await second
    assert (landed.owner, landed.payer) == (False, True)


async def test_the_last_to_leave_stops_the_work():
    own = Bench()
    tasks = [await own.ask(name) for name in "ab"]
    await until(lambda: own.begun)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert own.stopped == ["a"]
    again = await own.ask("c")
    own.ends.put_nowait(DONE)
    assert (await again).owner


async def test_an_error_is_everybody_s():
    own = Bench()
    tasks = [await own.ask(name) for name in "ab"]
    own.ends.put_nowait(EngineFailure("broken"))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.message for error in found] == ["broken", "broken"]


async def test_work_that_is_cancelled_from_below_ends_for_everybody():
    own = Bench()
    tasks = [await own.ask(name) for name in "ab"]
    own.ends.put_nowait(asyncio.CancelledError())
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_a_leader_s_deadline_is_its_own():
    own = Bench()
    leader = await own.ask("a", deadline=1010.0)
    early, late, latest = [
        await own.ask(name, deadline=deadline) for name, deadline in (("b", 1010.0), ("c", 1100.0), ("d", None))
    ]
    await until(lambda: own.begun)
    own.ends.put_nowait(DeadlineExceeded("too late"))
    for task in (leader, early):
        with pytest.raises(DeadlineExceeded):
            await task
    await until(lambda: own.begun == ["a", "d"])
    own.ends.put_nowait(DONE)
    assert (await late).finished == (await latest).finished == DONE
    assert (await latest).owner


async def test_a_follower_in_a_hurry_does_not_wait_for_its_leader():
    own = Bench()
    leader, hurried = await own.ask("a"), await own.ask("b", deadline=1000.0)
    with pytest.raises(DeadlineExceeded):
        await hurried
    own.ends.put_nowait(DONE)
    assert (await leader).owner


async def test_progress_reaches_all_and_previews_who_asked():
    own, told = Bench(), {name: [] for name in "abc"}
    tasks = [await own.ask(name, emit=told[name].append, preview_every=name != "b") for name in "abc"]
    await until(lambda: own.calls)
    progress, preview = Progress("a", 0, 1, 4), Preview("a", 0, 1, Picture(1, 1, "L", b"x"))
    own.calls[0].emit(progress)
    own.calls[0].emit(preview)
    own.ends.put_nowait(DONE)
    await asyncio.gather(*tasks)
    assert told["a"] == [progress, preview]
    assert told["b"] == [replace(progress, id="b")]
    assert told["c"] == [replace(progress, id="c"), replace(preview, id="c")]


async def test_other_keys_and_more_urgent_requests_fly_alone():
    own = Bench()
    tasks = [await own.ask("a"), await own.ask("b", key="other"), await own.ask("c", priority=Priority.INTERACTIVE)]
    await until(lambda: sorted(own.begun) == ["a", "b", "c"])
    for _ in tasks:
        own.ends.put_nowait(DONE)
    assert all(each.owner for each in await asyncio.gather(*tasks))
