"""The cache's table, on both databases."""

import asyncio
import math

from msgspec.structs import replace

from server.db.cache import SqlCache
from server.domain.asset import Asset, Format
from server.domain.caching import Kept, Keys
from server.domain.generation import Route, Usage


def kept(key, loose="l", size=100, created=1000.0, tenant="t"):
    asset = Asset(f"{key}.png", Format.PNG, 8, 9, 7, size)
    return Kept(Keys(key, loose), tenant, (asset,), Route("openai", "big"), Usage(usd=0.5), created)


async def test_what_is_kept_is_found_whole_until_it_is_too_old(database):
    cache = SqlCache(database)
    await cache.keep(kept("a"))
    assert await cache.find("a", 1000.0) == kept("a")
    assert await cache.find("a", 1000.1) is None
    assert await cache.find("b", 0.0) is None
    await cache.keep(kept("a", created=2000.0))
    assert (await cache.find("a", 1500.0)).created == 2000.0
    await cache.drop(kept("a", created=1000.0))
    assert (await cache.find("a", 0.0)).created == 2000.0
    await cache.drop(kept("a", created=2000.0))
    assert await cache.find("a", 0.0) is None


async def test_times_of_any_fraction_are_told_apart(database):
    cache = SqlCache(database)
    for created in (1_795_401_940.1234567, 1_795_401_940.1234569, 0.1 + 0.2):
        await cache.keep(kept("a", created=created))
        await cache.drop(kept("a", created=math.nextafter(created, 0.0)))
        await cache.drop(await cache.find("a", 0.0))
        assert await cache.find("a", 0.0) is None


async def test_of_equals_but_for_the_seeds_the_one_used_last_is_found(database):
    cache = SqlCache(database)
    for key, created in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        await cache.keep(kept(key, created=created))
    await cache.keep(kept("d", loose="other", created=9.0))
    assert (await cache.find_loose("l", 0.0)).keys.exact == "c"
    await cache.touch({"a": 10.0, "gone": 11.0})
    assert (await cache.find_loose("l", 0.0)).keys.exact == "a"
    assert (await cache.find_loose("l", 1.5)).keys.exact == "c"
    assert await cache.find_loose("none", 0.0) is None


async def test_what_is_old_goes_first_then_what_was_not_used_for_longest(database):
    cache = SqlCache(database)
    for index in range(10):
        await cache.keep(kept(f"k{index}", created=float(index)))
    await cache.touch({"k3": 20.0})
    trimmed = await cache.trim(2.0, 500, 100)
    assert set(trimmed.gone) == {"k0", "k1", "k2", "k4", "k5"}
    assert (trimmed.bytes, trimmed.entries) == (500, 5)
    assert (await cache.trim(2.0, 500, 3)).gone == ("k6", "k7")
    assert await cache.find("k3", 0.0) is not None
    assert (await cache.trim(0.0, 0, 100)).entries == 0


async def test_many_entries_are_trimmed_to_the_last(database):
    cache = SqlCache(database)
    await asyncio.gather(*(cache.keep(kept(f"k{index:04}", created=float(index))) for index in range(300)))
    trimmed = await cache.trim(0.0, 2000, 1000)
    assert (len(trimmed.gone), trimmed.entries) == (280, 20)


async def test_several_servers_at_once(database):
    first, second = SqlCache(database), SqlCache(database)
    await asyncio.gather(*(each.keep(replace(kept("a"), created=2.0)) for each in (first, second) for _ in range(5)))
    assert (await first.trim(0.0, 1000, 10)).entries == 1
    for index in range(20):
        await first.keep(kept(f"k{index}"))
    left = await asyncio.gather(*(each.trim(0.0, 500, 100) for each in (first, second)))
    gone = [key for each in left for key in each.gone]
    assert len(gone) == len(set(gone))
    assert (await first.trim(0.0, 500, 100)).entries <= 5
