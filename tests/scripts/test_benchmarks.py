"""The benchmark's own arithmetic."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from loadgen import Round, Sample, arrivals
from servers import totals
from workload import SAMPLERS, SIZES, Job, picture, take

PAGE = """
# TYPE aquatint_tick_seconds histogram
aquatint_tick_seconds_bucket{worker="0",phase="denoise",le="+Inf"} 10.0
aquatint_tick_seconds_count{worker="0",phase="denoise"} 10.0
aquatint_tick_seconds_sum{worker="0",phase="denoise"} 1.5
aquatint_tick_seconds_count{worker="0",phase="decode"} 3.0
aquatint_tick_seconds_sum{worker="0",phase="decode"} 9.0
# TYPE aquatint_tick_evaluations counter
aquatint_tick_evaluations_total{worker="0",phase="denoise"} 60.0
aquatint_tick_evaluations_total{worker="1",phase="denoise"} 20.0
"""


def job(**changes: object) -> Job:
    fields = {"number": 0, "kind": "txt2img", "prompt": "", "width": 128, "height": 128, "steps": 20}
    return Job(**{**fields, "sampler": "euler", "guidance": 1.0, "seed": 1, **changes})


def test_the_workload_is_the_same_every_time_and_mixed() -> None:
    work = take(200)
    assert work == take(200)
    assert work[:50] == take(50)
    assert {each.size for each in work} == set(SIZES)
    assert {each.sampler for each in work} == set(SAMPLERS)
    assert {each.kind for each in work} == {"txt2img", "img2img"}
    assert {each.guided for each in work} == {True, False}
    assert picture(128, 192).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [({}, 20), ({"guidance": 4.0}, 40), ({"kind": "img2img", "strength": 0.75, "steps": 25}, 18)],
)
def test_evaluations_are_steps_times_guidance(changes: dict[str, object], evaluations: int) -> None:
    assert job(**changes).evaluations == evaluations


def test_arrivals_are_poisson_like_and_repeatable() -> None:
    times = arrivals(5.0, 200.0)
    assert times == arrivals(5.0, 200.0) == sorted(times)
    assert len(times) == pytest.approx(1000, rel=0.15)


def test_only_denoising_ticks_are_counted_over_all_workers() -> None:
    assert totals(PAGE) == {"ticks": 10.0, "seconds": 1.5, "evaluations": 80.0}


def test_an_error_is_reported_and_not_an_image() -> None:
    limit, report = pytest.importorskip("limit"), pytest.importorskip("report")
    samples = (Sample(job(), 0.0, 2.0, 2.0), Sample(job(), 0.0, 5.0, 2.0), Sample(job(), 0.0, 3.0, 0.0, "500 no"))
    costs = limit.Costs(unet={(128, 128): {1: 0.1, 4: 0.2}}, decode={(128, 128): 0.5}, encode={}, text=0.0)
    line = report.row("x", [Round(samples, 4.0)], {"ticks": 10, "evaluations": 25, "padding": 5}, costs, 3.0)
    assert (line["images"], line["errors"], line["p50"], line["rows_per_tick"]) == (2, 1, 5.0, 2.5)
    # The second was worked on from 3 to 5, half of it before 4.
    assert line["share_of_ideal"] == pytest.approx(1.5 * (20 * 0.05 + 0.5) / 4)
    assert line["images_per_second"] == pytest.approx(3.0 * line["share_of_ideal"])
