"""Decisions of the scheduler, one by one."""

from pipelines.contract.enlarging import Tiles, Upscale
from pipelines.contract.messages import Phase
from pipelines.contract.request import ImageRequest, Priority, Refiner, Sampling
from pipelines.engine.row import Course, Key, Row, rows_of
from pipelines.engine.scheduler import Policy, Scheduler


def row(
    order: int, *, guided: bool = True, width: int = 64, phase: Phase = Phase.DENOISE, total: int = 10, **changes: object
) -> Row:
    sampling = Sampling(sampler="euler", steps=total, guidance_scale=5.0 if guided else 1.0)
    fields = {
        "id": f"r{order}",
        "model": "m",
        "prompt": "",
        "width": width,
        "height": 64,
        "seeds": (order,),
        "sampling": sampling,
    }
    (made,) = rows_of(ImageRequest(**(fields | changes)), order)
    made.phase, made.total = phase, total if phase is not Phase.ENCODE else 0
    return made


def scheduler(*rows: Row, most: int = 8, **policy: object) -> Scheduler:
    made = Scheduler(Policy(**policy))
    made.limit("m", most)
    made.limit("n", most)
    made.add(rows)
    return made


def orders(batch) -> list[int]:
    return [row.order for row in batch.rows]


def tick(made: Scheduler, batch=None, **outcome: object) -> None:
    batch = batch or made.schedule()
    advanced = {r.id: 10 if batch.phase is Phase.ENCODE else r.position + 1 for r in batch.rows}
    made.update(batch, **({"advanced": advanced, "out_of_memory": False, "fault": False} | outcome))


def test_nothing_to_do():
    assert scheduler().schedule() is None


def test_a_guided_row_costs_two_evaluations():
    batch = scheduler(*(row(i) for i in range(6))).schedule()
    assert orders(batch) == [0, 1, 2, 3]
    assert batch.size == 8


def test_a_row_that_does_not_fit_is_passed_over_for_one_that_does():
    batch = scheduler(row(0), row(1), row(2, guided=False), most=3).schedule()
    assert orders(batch) == [0, 2]


def test_a_guided_row_runs_even_under_a_budget_of_one():
    batch = scheduler(row(0), row(1), most=1).schedule()
    assert orders(batch) == [0]
    assert batch.budget == 1


def test_rows_of_another_shape_do_not_share_a_tick():
    batch = scheduler(row(0), row(1, width=96), row(2)).schedule()
    assert orders(batch) == [0, 2]


def test_steps_samplers_seeds_and_guidance_do_not_matter():
    unlike = [
        row(0, total=8),
        row(1, total=50, sampling=Sampling(sampler="heun", steps=50, guidance_scale=9.0)),
        row(2, total=3, guided=False),
    ]
    assert orders(scheduler(*unlike).schedule()) == [0, 1, 2]


def test_interactive_rows_pre_empt_bulk_rows():
    bulk = [row(i, priority=Priority.BULK) for i in range(4)]
    made = scheduler(*bulk)
    tick(made)
    made.add([row(9, priority=Priority.INTERACTIVE)])
    assert orders(made.schedule()) == [9, 0, 1, 2]


def test_earlier_deadlines_go_first_among_equals():
    assert orders(scheduler(row(0), row(1, deadline=20.0), row(2, deadline=10.0), most=4).schedule()) == [2, 1]


def test_a_bulk_row_leads_once_it_was_overtaken_often_enough():
    made = scheduler(row(0, priority=Priority.BULK), most=2, patience=5)
    ran = []
    for order in range(1, 12):
        made.add([row(order, priority=Priority.INTERACTIVE, total=1)])
        batch = made.schedule()
        ran += orders(batch)
        tick(made, batch)
        made.remove([r.id for r in batch.rows if r.phase is Phase.DECODE])
    assert 0 in ran
    assert ran.index(0) == 5


def test_keys_take_turns_in_proportion_to_waiting_work():
    busy = [row(i, total=1000) for i in range(6)]
    made = scheduler(*busy, row(9, width=128, total=1000), most=4)
    ticks = {64: 0, 128: 0}
    for _ in range(90):
        batch = made.schedule()
        ticks[batch.key.width] += 1
        tick(made, batch)
    # Six rows of 64 wait against one of twice the size: three times the work, four evaluations a tick against two big ones.
    assert 2 <= ticks[64] / ticks[128] <= 4


def test_a_short_job_beside_a_long_one_of_another_key_is_done_soon():
    made = scheduler(row(0, total=900))
    for _ in range(50):
        tick(made)
    made.add([row(1, width=128, total=5)])
    ticks = 0
    while True:
        batch = made.schedule()
        if batch.phase is Phase.DECODE:
            break
        tick(made, batch)
        ticks += 1
    assert orders(batch) == [1]
    assert ticks <= 11, "turn by turn, however much the other has before it"


def test_between_ticks_at_most_one_encode_and_one_decode():
    made = scheduler(
        *(row(i, phase=Phase.ENCODE) for i in range(20)),
        *(row(i, phase=Phase.DECODE) for i in range(20, 40)),
        row(50, total=100),
    )
    phases = []
    for _ in range(9):
        batch = made.schedule()
        phases.append(batch.phase)
        tick(made, batch)
        if batch.phase is Phase.DECODE:
            made.remove([r.id for r in batch.rows])
    assert phases == [Phase.DECODE, Phase.ENCODE, Phase.DENOISE] * 3


def test_no_more_rows_are_encoded_than_may_be_active():
    made = scheduler(*(row(i, phase=Phase.ENCODE) for i in range(20)), active_rows=10, encode_rows=8)
    encoded = 0
    for _ in range(10):
        batch = made.schedule()
        encoded += len(batch.rows) if batch.phase is Phase.ENCODE else 0
        tick(made, batch)
    assert encoded == 10


def test_out_of_memory_halves_the_budget_of_that_key_only():
    made = scheduler(*(row(i) for i in range(8)), row(20, width=96), row(21, width=96))
    batch = made.schedule()
    assert batch.size == 8
    assert made.update(batch, advanced={}, out_of_memory=True, fault=False) == []
    sizes = {}
    for _ in range(4):
        batch = made.schedule()
        sizes[batch.key.width] = batch.size
        tick(made, batch)
    assert sizes == {64: 4, 96: 4}


def test_a_lowered_budget_grows_again_after_many_clean_ticks():
    made = scheduler(*(row(i, total=10**6) for i in range(8)))
    made.update(made.schedule(), advanced={}, out_of_memory=True, fault=False)
    for _ in range(500):
        tick(made)
    assert made.schedule().budget == 5


def test_only_a_single_row_that_does_not_fit_is_hopeless():
    made = scheduler(row(0), row(1))
    hopeless = []
    for _ in range(3):
        assert not hopeless
        hopeless = made.update(made.schedule(), advanced={}, out_of_memory=True, fault=False)
    assert [r.order for r in hopeless] == [0]


def test_a_fault_in_company_makes_everyone_run_alone():
    made = scheduler(row(0), row(1), row(2))
    assert made.update(made.schedule(), advanced={}, out_of_memory=False, fault=True) == []
    alone = made.schedule()
    assert orders(alone) == [0]
    tick(made, alone)
    batch = made.schedule()
    assert orders(batch) == [0], "no longer suspect, and the others still are"


def test_buckets_pad_and_never_pass_the_budget():
    made = scheduler(row(0), row(1), row(2, guided=False), most=8, buckets=(1, 2, 4, 6, 8, 12))
    batch = made.schedule()
    assert (batch.size, batch.bucket) == (5, 6)
    made = scheduler(row(0), row(1), row(2, guided=False), most=5, buckets=(1, 2, 4, 6, 8, 12))
    assert made.schedule().bucket == 0


def test_a_row_costs_more_where_its_course_says_so():
    """Skip-layer guidance: what a batch held is told by its own sizes, even after its rows have moved on."""
    made = scheduler(row(0, phase=Phase.ENCODE), row(1))
    encode = made.schedule()
    tick(made, encode, courses={encode.rows[0].id: Course(10, (1, 3))})
    sizes = []
    for _ in range(4):
        batch = made.schedule()
        tick(made, batch)
        sizes.append((batch.size, batch.costs))
    assert sizes == [(4, (2, 2)), (5, (3, 2)), (5, (3, 2)), (4, (2, 2))]


def test_three_evaluations_are_weighed_against_the_budget():
    made = scheduler(row(0, phase=Phase.ENCODE), row(1), row(2, guided=False), most=4)
    encode = made.schedule()
    tick(made, encode, courses={encode.rows[0].id: Course(10, (0, 1))})
    first = made.schedule()
    assert orders(first) == [0, 2]
    tick(made, first)
    assert orders(made.schedule()) == [0, 1]


def refined(order: int, **changes: object) -> Row:
    return row(order, phase=Phase.ENCODE, refiner=Refiner("n", 0.5), **changes)


def test_a_row_changes_models_at_the_switch_and_is_encoded_again():
    (made,) = rows = [refined(0)]
    turns = scheduler(*rows)
    seen = []
    while made.phase is not Phase.DECODE:
        batch = turns.schedule()
        seen.append((batch.phase, batch.key.model, made.step))
        tick(turns, batch, **({"switches": {made.id: 6}} if not made.refining else {}))
    encode, denoise = Phase.ENCODE, Phase.DENOISE
    first = [(encode, "m", 0), *((denoise, "m", step) for step in range(6))]
    assert seen == [*first, (encode, "n", 6), *((denoise, "n", step) for step in range(6, 10))]
    assert made.key == Key("n", 64, 64)
    assert made.step == made.steps == 10


def test_a_row_that_changes_models_does_not_wait_for_room():
    rows = [refined(0), *(row(i, total=100) for i in range(1, 4)), row(9, phase=Phase.ENCODE)]
    made = scheduler(*rows, active_rows=4)
    batch = made.schedule()
    assert orders(batch) == [0]
    tick(made, batch, switches={rows[0].id: 0})
    assert rows[0].refining
    tick(made)
    batch = made.schedule()
    assert (batch.phase, batch.key.model, orders(batch)) == (Phase.ENCODE, "n", [0])
    tick(made, batch)
    assert made.schedule().phase is Phase.DENOISE, "four rows are active: the newcomer waits"


def test_a_switch_after_the_last_step_only_changes_who_decodes():
    made = refined(0)
    turns = scheduler(made)
    tick(turns, switches={made.id: 10})
    for _ in range(10):
        tick(turns)
    assert made.phase is Phase.ENCODE
    tick(turns)
    assert (made.phase, made.key.model) == (Phase.DECODE, "n")


def test_steps_never_go_back_when_the_refiner_takes_longer():
    made = refined(0)
    turns = scheduler(made)
    tick(turns, advanced={made.id: 12}, switches={made.id: 6})
    for _ in range(6):
        tick(turns)
    assert made.step == 5
    tick(turns, advanced={made.id: 40})
    steps = []
    while made.phase is Phase.DENOISE:
        tick(turns)
        steps.append(made.step)
    assert steps == sorted(steps)
    assert steps[0] == 5
    assert steps[-1] == 10


def test_between_two_ticks_there_is_one_piece_of_enlarging_and_newcomers_come_first():
    enlarging = [row(order, phase=Phase.ENLARGE, upscale=Upscale(128, 128)) for order in (0, 1)]
    made = scheduler(*enlarging, row(2), row(3, phase=Phase.ENCODE))
    phases = []
    for _ in range(6):
        batch = made.schedule()
        phases.append(batch.phase)
        assert len(batch.rows) == 1 or batch.phase is Phase.DENOISE
        left = {each.id: 5 for each in batch.rows}
        tick(made, batch, **({"advanced": left} if batch.phase is Phase.ENLARGE else {}))
    assert phases == [Phase.ENCODE, Phase.ENLARGE, Phase.DENOISE, Phase.ENLARGE, Phase.DENOISE, Phase.ENLARGE]


def test_a_tile_waits_for_nobody_and_its_whole_for_the_tile():
    asked = Upscale(128, 64, tiles=Tiles(64, 0, 0.5))
    whole = row(0, phase=Phase.ENLARGE, total=4, upscale=asked)
    made = scheduler(whole, row(1, phase=Phase.ENCODE))
    made.hold({"m"})
    tick(made, advanced={whole.id: 0})
    assert len(made) == 4
    assert made.demand()["m"].begun == 2, "its tiles hold the model"
    batch = made.schedule()
    assert [each.tile for each in batch.rows] == [0, 1]
    while batch.phase is not Phase.DECODE:
        tick(made, batch)
        batch = made.schedule()
        assert len(batch.rows) == 2
    tick(made, batch)
    made.remove([each.id for each in batch.rows])
    last = made.schedule()
    assert (last.phase, last.rows) == (Phase.ENLARGE, (whole,))
    assert whole.shown
