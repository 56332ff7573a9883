"""The repository of idempotency keys, on both databases."""

import asyncio
import os

import pytest
from msgspec.structs import replace

from server.access.idempotency import Keeper, Keeping
from server.db.idempotency import SqlIdempotency
from server.domain.clock import SetClock
from server.domain.idempotency import Answer, KeyInUse, KeyReused, Reservation
from server.telemetry.logs import silent

ANSWER = Answer(202, (("location", "/x"),), b'{"id": "1"}', "job")
WANTED = Reservation("t", "key", "f" * 64, "me", "resource-1")


@pytest.fixture
def clock():
    return SetClock(100.0)


@pytest.fixture
def keys(database, clock):
    return SqlIdempotency(database, clock, most=2000)


async def test_a_key_is_held_until_there_is_an_answer_which_is_given_again(keys):
    assert await keys.reserve(WANTED, 130.0, 0.0) == WANTED
    with pytest.raises(KeyInUse) as caught:
        await keys.reserve(WANTED, 130.0, 0.0)
    assert (caught.value.retryable, caught.value.retry_after) == (True, 1.0)
    await keys.answer(WANTED, ANSWER)
    assert await keys.reserve(WANTED, 130.0, 0.0) == ANSWER
    with pytest.raises(KeyReused):
        await keys.reserve(replace(WANTED, fingerprint="0" * 64), 130.0, 0.0)
    assert await keys.reserve(replace(WANTED, tenant="other"), 130.0, 0.0) == replace(WANTED, tenant="other")


async def test_whoever_falls_silent_loses_the_key_and_leaves_the_name_of_what_was_to_be_made(keys, clock):
    await keys.reserve(WANTED, 130.0, 0.0)
    other = replace(WANTED, owner="other", resource="resource-2")
    with pytest.raises(KeyReused):
        await keys.reserve(replace(other, fingerprint="0" * 64), 130.0, 0.0)
    clock.advance(20)
    await keys.renew("me", ["resource-0"], 190.0)  # another of its requests
    await keys.renew("me", ["resource-0", "resource-1"], 150.0)
    clock.advance(20)
    with pytest.raises(KeyInUse):
        await keys.reserve(other, 170.0, 0.0)
    clock.advance(20)
    taken = await keys.reserve(other, 190.0, 0.0)
    assert taken == replace(other, resource="resource-1", again=True)
    await keys.answer(WANTED, replace(ANSWER, body=b"late"))
    await keys.answer(taken, ANSWER)
    assert await keys.reserve(WANTED, 190.0, 0.0) == ANSWER


class Forgetful:
    """A repository that keeps no answers for a while; its owner says so often what it holds."""

    def __init__(self, keys):
        self._keys, self.refuses, self.renewed = keys, True, asyncio.Queue()

    def __getattr__(self, name):
        return getattr(self._keys, name)

    async def answer(self, held, answer):
        if self.refuses:
            raise OSError("disk full")
        await self._keys.answer(held, answer)

    async def renew(self, owner, resources, lease):
        await self._keys.renew(owner, resources, lease)
        self.renewed.put_nowait(lease)


async def test_a_key_whose_answer_cannot_be_kept_is_free_once_its_lease_has_run_out(keys, clock):
    forgetful = Forgetful(keys)
    async with Keeper(forgetful, clock, silent(), Keeping(lease=0.03)).running() as keeper:
        lost = await keeper.reserve("t", "lost", "f" * 64)
        await keeper.reserve("t", "held", "f" * 64)
        await keeper.settle(lost, ANSWER)
        clock.advance(0.02)
        while await asyncio.wait_for(forgetful.renewed.get(), 60) < clock.time() + 0.03:
            pass
        clock.advance(0.02)
        with pytest.raises(KeyInUse):
            await keeper.reserve("t", "held", "f" * 64)
        again = await keeper.reserve("t", "lost", "f" * 64)
        assert (again.resource, again.again) == (lost.resource, True)
        forgetful.refuses = False
        await keeper.settle(again, ANSWER)
        assert await keeper.reserve("t", "lost", "f" * 64) == ANSWER


async def test_a_released_key_may_be_tried_again_at_once(keys):
    await keys.reserve(WANTED, 130.0, 0.0)
    await keys.release(WANTED)
    assert (await keys.reserve(WANTED, 130.0, 0.0)).again
    await keys.release_all()
    assert (await keys.reserve(WANTED, 130.0, 0.0)).again


async def test_of_many_at_once_one_gets_it(keys, database, clock):
    async def attempt(index):
        try:
            return await SqlIdempotency(database, clock).reserve(replace(WANTED, owner=f"o{index}"), 130.0, 0.0)
        except KeyInUse:
            return None

    got = await asyncio.gather(*(attempt(index) for index in range(12)))
    assert len([each for each in got if each is not None]) == 1


async def test_a_key_is_free_again_after_its_time(keys, clock):
    await keys.reserve(WANTED, 130.0, 0.0)
    await keys.answer(WANTED, ANSWER)
    other = replace(WANTED, fingerprint="0" * 64, resource="resource-2")
    clock.advance(50)
    assert await keys.reserve(other, 180.0, 101.0) == other


async def test_what_is_too_large_is_kept_without_its_body(keys):
    await keys.reserve(WANTED, 130.0, 0.0)
    await keys.answer(WANTED, replace(ANSWER, body=os.urandom(3000)))
    assert await keys.reserve(WANTED, 130.0, 0.0) == replace(ANSWER, body=None)


async def test_answers_are_bounded_by_age_number_and_bytes(keys, clock):
    async def answered(key, tenant="t", size=10):
        held = replace(WANTED, key=key, tenant=tenant)
        await keys.reserve(held, 1e9, 0.0)
        await keys.answer(held, replace(ANSWER, body=os.urandom(size)))
        clock.advance(1)

    async def known():
        found = set()
        for tenant, key in [("t", "a"), ("t", "b"), ("t", "c"), ("u", "a")]:
            held = replace(WANTED, key=key, tenant=tenant, fingerprint="0" * 64)
            try:
                await keys.release(await keys.reserve(held, 1e9, 0.0))
            except KeyReused:
                found.add(tenant + key)
        return found

    for key in "abc":
        await answered(key)
    await answered("a", "u", 1000)
    assert await keys.forget(100.0, 9, 10_000) == 0
    assert await keys.forget(101.0, 9, 10_000) == 1  # ta is too old
    assert await keys.forget(0.0, 1, 10_000) == 1  # tb is one too many
    assert await keys.forget(0.0, 9, 500) == 1  # ua is too large
    assert await known() == {"tc"}
