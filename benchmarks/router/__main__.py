"""How well the router sees which prompts need legible text: `python -m benchmarks.router`.

Prints precision, recall and confusions for the tuning and the held-out half, per language and for the later rounds, and the time
per prompt; writes benchmarks/results/router.json. With --errors also what is judged wrongly in the tuning half: the held-out half
is not to be tuned on.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.router.corpus import HALVES, ROUNDS, Labelled, corpus, later
from server.gateway.text_intent import text_intent

RESULTS = Path(__file__).resolve().parents[1] / "results" / "router.json"
REPEATS = 20


def figures(prompts: Iterable[Labelled]) -> dict[str, Any]:
    """Counts, precision and recall over ``prompts``; arguable ones count nowhere but as such."""
    counts = dict.fromkeys(("needed_and_seen", "needed_and_missed", "not_needed_and_seen", "not_needed_and_not_seen"), 0)
    arguable = seen_arguable = 0
    for each in prompts:
        seen = text_intent(each.prompt, each.negative).needs_text
        if each.label == "arguable":
            arguable += 1
            seen_arguable += seen
        elif each.label == "needs":
            counts["needed_and_seen" if seen else "needed_and_missed"] += 1
        else:
            counts["not_needed_and_seen" if seen else "not_needed_and_not_seen"] += 1
    right, missed, wrong = counts["needed_and_seen"], counts["needed_and_missed"], counts["not_needed_and_seen"]
    return {
        "prompts": sum(counts.values()),
        **counts,
        "precision": right / max(right + wrong, 1),
        "recall": right / max(right + missed, 1),
        "arguable": arguable,
        "arguable_and_seen": seen_arguable,
    }


def timed(prompts: Sequence[Labelled]) -> dict[str, float]:
    """Microseconds per prompt: of each the fastest of several rounds, as others share the machine."""
    best = [float("inf")] * len(prompts)
    for _ in range(REPEATS):
        for index, each in enumerate(prompts):
            began = time.perf_counter()
            text_intent(each.prompt, each.negative)
            best[index] = min(best[index], time.perf_counter() - began)
    ranked = sorted(1e6 * seconds for seconds in best)
    return {"median": statistics.median(ranked), "p99": ranked[int(len(ranked) * 0.99)], "longest": ranked[-1]}


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router")
    parser.add_argument("--errors", action="store_true", help="list what is judged wrongly in the tuning half")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    prompts = corpus()
    halves = {half: [each for each in prompts if each.half == half] for half in HALVES}
    result: dict[str, Any] = {
        "prompts": len(prompts),
        "halves": {half: figures(each) for half, each in halves.items()},
        "held out by language": {
            language: figures(each for each in halves["held out"] if each.language == language)
            for language in sorted({each.language for each in prompts})
        },
        "later rounds": {name: figures(later(name)) for name in ROUNDS},
        "microseconds per prompt": timed(prompts),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(f"{'':14}{'prompts':>8}{'precision':>11}{'recall':>8}{'seen':>6}{'missed':>8}{'false':>7}{'arguable: seen':>17}")
    for name, row in {**result["halves"], **result["held out by language"], **result["later rounds"]}.items():
        print(
            f"{name:14}{row['prompts']:8}{row['precision']:11.3f}{row['recall']:8.3f}{row['needed_and_seen']:6}"
            f"{row['needed_and_missed']:8}{row['not_needed_and_seen']:7}{row['arguable_and_seen']:11} of {row['arguable']}"
        )
    took = result["microseconds per prompt"]
    print("microseconds per prompt:", ", ".join(f"{name} {value:.0f}" for name, value in took.items()))
    if asked.errors:
        for each in halves["tuning"]:
            need = text_intent(each.prompt, each.negative)
            if each.label != "arguable" and need.needs_text is not (each.label == "needs"):
                print(f"{each.language} {each.label}: {each.prompt} ({need.score}: {need.reasons})")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
