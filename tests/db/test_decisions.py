import asyncio

from server.db.decisions import SqlDecisions
from server.domain.decision import Decision, DecisionFilter, Passed
from server.domain.verdict import Action, Stage


def decision(name, time, tenant="a", action=Action.BLOCK, stage=Stage.PROMPT, **more):
    return Decision(
        name, time, tenant, f"job-{name}", stage, "lists", action, ("sexual",), {"sexual": 0.5}, ("why",), "d", **more
    )


async def test_decisions_come_back_newest_first_page_by_page(database):
    decisions = SqlDecisions(database)
    rows = [
        decision("1", 1.0),
        decision("2", 2.0, tenant="b", action=Action.FLAG),
        decision("3", 2.0, stage=Stage.OUTPUT, image=3, prompt="größe"),
    ]
    for row in rows:
        await decisions.add(row)
    first = await decisions.page(DecisionFilter(), None, 2)
    assert (first.decisions, first.more) == ((rows[2], rows[1]), True)
    second = await decisions.page(DecisionFilter(), (2.0, "2"), 2)
    assert (second.decisions, second.more) == ((rows[0],), False)
    for wanted, found in (
        (DecisionFilter(tenant="b"), ["2"]),
        (DecisionFilter(action=Action.BLOCK), ["3", "1"]),
        (DecisionFilter(stage=Stage.OUTPUT), ["3"]),
        (DecisionFilter(job="job-1", tenant="a"), ["1"]),
    ):
        assert [row.id for row in (await decisions.page(wanted, None, 9)).decisions] == found


async def test_numbers_of_several_servers_add_up(database):
    decisions = SqlDecisions(database)
    await decisions.count({})
    part = {("2026-11-22", "a", "prompt"): 2, ("2026-11-22", "b", "prompt"): 1}
    await asyncio.gather(*(decisions.count(part) for _ in range(5)))
    await decisions.count({("2026-11-23", "a", "output"): 7})
    assert await decisions.passed("a", 9) == (
        Passed("2026-11-23", Stage.OUTPUT, 7),
        Passed("2026-11-22", Stage.PROMPT, 10),
    )
    assert await decisions.passed(None, 9) == (
        Passed("2026-11-23", Stage.OUTPUT, 7),
        Passed("2026-11-22", Stage.PROMPT, 15),
    )
    assert [each.count for each in await decisions.passed(None, 1)] == [7]


async def test_what_is_past_its_time_goes(database):
    decisions, day = SqlDecisions(database), 86_400.0
    for number in range(4):
        await decisions.add(decision(str(number), number * day))
    await decisions.count({("1970-01-01", "a", "prompt"): 1, ("1970-01-03", "a", "prompt"): 1})
    assert await decisions.forget(2 * day) == 2
    assert await decisions.forget(2 * day) == 0
    assert [row.id for row in (await decisions.page(DecisionFilter(), None, 9)).decisions] == ["3", "2"]
    assert [each.day for each in await decisions.passed(None, 9)] == ["1970-01-03"]
