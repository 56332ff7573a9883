"""The benchmark's labelled prompts, and the figures that docs/14-routing.md promises. No time is asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.router.__main__ import figures  # noqa: E402
from benchmarks.router.corpus import HALVES, ROUNDS, corpus, later  # noqa: E402


def test_there_are_many_prompts_in_eight_languages_each_once():
    prompts = corpus()
    texts = [each.prompt for each in [*prompts, *(each for name in ROUNDS for each in later(name))]]
    assert len(prompts) >= 500
    assert len(texts) == len(set(texts))
    assert {each.language for each in prompts} == {"en", "de", "fr", "es", "pt", "it", "zh", "ja"}
    for half in HALVES:
        labels = [each.label for each in prompts if each.half == half]
        assert all(labels.count(label) >= 20 for label in ("needs", "not", "arguable"))


def test_the_held_out_half():
    found = figures(each for each in corpus() if each.half == "held out")
    assert found["precision"] >= 0.95
    assert found["recall"] >= 0.95


@pytest.mark.parametrize("name", ROUNDS)
def test_the_later_rounds_do_not_get_worse(name):
    found = figures(later(name))
    assert found["precision"] >= 0.95
    assert found["recall"] >= 0.85


def test_it_runs_and_writes_its_results(tmp_path):
    output = tmp_path / "router.json"
    command = [sys.executable, "-m", "benchmarks.router", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout
    result = json.loads(output.read_text())
    assert set(result["halves"]) == set(HALVES)
    assert result["microseconds per prompt"]["median"] > 0
