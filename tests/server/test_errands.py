"""Preprocessing through the fleet, against workers that the test plays."""

import asyncio

import pytest
from test_fleet import Played, _showing

from pipelines.contract.errors import (
    BadPicture,
    DeadlineExceeded,
    EngineFailure,
    ErrorReport,
    InvalidRequest,
    Overloaded,
    RequestKillsWorker,
    ShuttingDown,
    Unsupported,
    WorkerLost,
)
from pipelines.contract.messages import Cancel, Failed, Generate, Preparing, Preprocess, Preprocessed
from pipelines.contract.picture import Picture
from server.fleet import fleet as fleets
from server.fleet.health import WorkerState

GIVEN, MADE = Picture(2, 1, "RGB", b"abcdef"), Picture(1, 1, "RGB", b"xyz")


@pytest.fixture
def showing(tmp_path):
    return lambda *devices: _showing(tmp_path, devices or ("fake",))


def ask(show, name="canny", **options):
    return asyncio.create_task(show.fleet.preprocess(name, GIVEN, options))


async def order(worker: Played) -> Preprocess:
    command = await worker.heard()
    assert isinstance(command, Preprocess), command
    return command


def answer(worker, *orders):
    worker.say(*(Preprocessed(each.id, MADE, 0.1) for each in orders))


async def test_a_picture_goes_down_and_its_control_image_comes_up(showing):
    async with showing() as show:
        asked = ask(show, "Canny", low_threshold=50)
        worker = await (await show.stage.enter()).up()
        sent = await order(worker)
        assert (sent.preprocessor, sent.card, sent.picture) == ("canny", None, GIVEN)
        assert sent.options == {"resolution": 512, "low_threshold": 50, "high_threshold": 200}
        worker.say(Preparing(sent.id, "weights", 0.5))
        answer(worker, sent)
        assert await asked == MADE
        assert b'aquatint_preprocess_seconds_count{preprocessor="canny",worker="worker-0"} 1.0' in show.metrics.render()


async def test_it_waits_for_no_model(showing):
    async with showing() as show:
        asked = ask(show)
        worker = await show.stage.enter()
        worker.say(fleets_hello())
        heard = [await worker.heard() for _ in range(3)]
        sent = next(each for each in heard if isinstance(each, Preprocess))
        answer(worker, sent)
        assert await asked == MADE
        assert show.fleet.health()[0].state is WorkerState.STARTING


def fleets_hello():
    from pipelines.contract.messages import PROTOCOL, Hello

    return Hello(PROTOCOL, 1, "fake", "played", 0)


async def test_what_is_wrong_is_refused_before_any_work(showing):
    async with showing() as show:
        for name, options, kind in (
            ("nonsense", {}, InvalidRequest),
            ("canny", {"x": 1}, InvalidRequest),
            ("hed", {}, Unsupported),
        ):
            with pytest.raises(kind):
                await show.fleet.preprocess(name, GIVEN, options)
        assert show.fleet._supervisors[0].errands == 0


async def test_the_workers_error_is_the_callers(showing):
    async with showing() as show:
        asked = ask(show)
        worker = await (await show.stage.enter()).up()
        worker.say(Failed((await order(worker)).id, BadPicture("odd", param="image").report()))
        with pytest.raises(BadPicture, match="odd"):
            await asked


async def test_work_is_spread_and_little_of_it_sent_ahead(showing):
    async with showing("fake", "fake") as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        asked = [ask(show) for _ in range(6)]
        first = [[await order(worker) for _ in range(2)] for worker in workers]
        for worker, orders in zip(workers, first, strict=True):
            answer(worker, *orders)
            answer(worker, await order(worker))
        assert await asyncio.gather(*asked) == [MADE] * 6


async def test_a_dead_workers_picture_is_done_by_another(showing):
    async with showing("fake", "fake") as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        asked = ask(show)
        await order(workers[0])
        workers[0].die()
        answer(workers[1], await order(workers[1]))
        assert await asked == MADE


async def test_a_dead_workers_picture_waits_for_its_successor(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = ask(show)
        await order(worker)
        worker.die()
        worker = await (await show.stage.enter()).up()
        answer(worker, await order(worker))
        assert await asked == MADE


async def test_a_picture_that_kills_twice_is_given_up_and_its_neighbours_are_not(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        deadly, neighbour = ask(show), ask(show, "grey")
        request = show.ask("r")
        assert {type(await worker.heard()) for _ in range(3)} == {Preprocess, Generate}
        worker.die()
        worker = await (await show.stage.enter()).up()
        # All three are suspects now, and tried one by one; pictures wait for no model, so they come first.
        assert (await order(worker)).preprocessor == "canny"
        worker.die()
        with pytest.raises(RequestKillsWorker):
            await deadly
        worker = await (await show.stage.enter()).up()
        sent = await order(worker)
        assert sent.preprocessor == "grey"
        assert not request.done()
        answer(worker, sent)
        assert await neighbour == MADE
        assert isinstance(await worker.heard(), Generate)
        worker.finish("r")
        await request


async def test_a_suspect_picture_waits_for_a_suspect_request(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        request = show.ask("r")
        assert isinstance(await worker.heard(), Generate)
        worker.die()
        worker = await (await show.stage.enter()).up()
        assert isinstance(await worker.heard(), Generate)
        picture = ask(show)  # innocent: it goes at once
        sent = await order(worker)
        worker.die()
        with pytest.raises(RequestKillsWorker):
            await request
        worker = await (await show.stage.enter()).up()
        again = await order(worker)
        assert again.id == sent.id
        answer(worker, again)
        assert await picture == MADE


async def test_cancelling_the_task_cancels_the_work(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = [ask(show) for _ in range(3)]
        first, second = await order(worker), await order(worker)
        asked[0].cancel()
        assert await worker.heard() == Cancel(first.id)
        asked[2].cancel()  # it was never sent
        worker.say(Failed(first.id, ErrorReport("cancelled", "")))
        answer(worker, second)
        assert await asked[1] == MADE
        await show.until(lambda: show.fleet._supervisors[0].errands == 0)


async def test_a_deadline_ends_the_wait(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        with pytest.raises(DeadlineExceeded):
            await show.fleet.preprocess("canny", GIVEN, {}, deadline=show.clock.time() - 1)
        sent = await order(worker)
        assert await worker.heard() == Cancel(sent.id)


async def test_the_line_is_bounded(showing):
    async with showing() as show:
        asked = [ask(show) for _ in range(fleets.MOST_ERRANDS)]
        await show.until(lambda: show.fleet._supervisors[0].errands == fleets.MOST_ERRANDS)
        with pytest.raises(Overloaded) as told:
            await ask(show)
        assert told.value.retry_after > 0
        for each in asked:
            each.cancel()


async def test_a_leaving_workers_refusal_sends_it_on(showing):
    async with showing("fake", "fake") as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        asked = [ask(show) for _ in range(4)]
        first = [await order(worker) for worker in workers]
        workers[0].say(Failed(first[0].id, ShuttingDown("leaving").report()))
        sent = [first[1], await order(workers[1])]
        answer(workers[1], *sent)
        workers[0].die(0)
        for _ in range(2):
            answer(workers[1], await order(workers[1]))
        assert await asyncio.gather(*asked) == [MADE] * 4


async def test_a_worker_whose_preprocessing_hangs_is_replaced_even_while_it_ticks(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = ask(show)
        await order(worker)
        show.clock.advance(1001.0)
        worker = await (await show.stage.enter()).up()
        answer(worker, await order(worker))
        assert await asked == MADE
        assert "preprocessing hung" in (show.fleet.health()[0].reason or "")


async def test_without_any_worker_it_says_why(showing):
    async with showing() as show:
        (await show.stage.enter()).die()
        asked = ask(show)
        show.stage.refusals = 10**6
        with pytest.raises(WorkerLost, match="no such program"):
            async with asyncio.timeout(60):
                await asked


async def test_the_end_of_the_server_is_heard_of(tmp_path):
    async with _showing(tmp_path, ("fake",)) as show:
        worker = await (await show.stage.enter()).up()
        asked = ask(show)
        await order(worker)
        worker.say()
    with pytest.raises((ShuttingDown, EngineFailure)):
        await asked
    with pytest.raises(ShuttingDown):
        await show.fleet.preprocess("canny", GIVEN, {})
