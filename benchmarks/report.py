"""From measurements to the table, to the targets and to the README."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from limit import Costs
from loadgen import Round

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def row(name: str, rounds: Sequence[Round], ticks: Mapping[str, float], costs: Costs, ideal_rate: float) -> dict[str, Any]:
    """One server's line, all its closed-loop rounds together.

    Throughput is taken while every client was busy, in units of the limit: the time that the work done then needs at the least,
    over the time it took. Images per second are that share of the ideal rate, so that servers which got through different
    parts of the workload can be compared.
    """
    samples = [sample for measured in rounds for sample in measured.samples]
    done = [sample for sample in samples if sample.error is None]
    seconds = sum(measured.full for measured in rounds)
    needed = sum(
        measured.credit(sample) * costs.ideal(sample.job)
        for measured in rounds
        for sample in measured.samples
        if sample.error is None
    )
    latencies = [sample.latency for sample in done]
    line: dict[str, Any] = {
        "server": name,
        "images": len(done),
        "errors": len(samples) - len(done),
        "seconds": seconds,
        "images_per_second": needed / seconds * ideal_rate,
        "p50": percentile(latencies, 0.50),
        "p95": percentile(latencies, 0.95),
        "share_of_ideal": needed / seconds,
    }
    if ticks.get("ticks"):
        line["rows_per_tick"] = ticks["evaluations"] / ticks["ticks"]
        line["padding_share"] = ticks.get("padding", 0.0) / (ticks["evaluations"] + ticks.get("padding", 0.0))
    return line


def targets(found: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was promised: the sentence, the figure, the target, whether it is met."""
    ours, serial = found["closed"][0], found["closed"][1]
    ratio = ours["share_of_ideal"] / serial["share_of_ideal"]
    alone = found["lonely"]
    overhead = sum(job["aquatint"] for job in alone) / sum(job["in_process"] for job in alone)
    crowded = slowdown(found, "aquatint")
    growth = growing(found["open"]["serial"]["latencies"])
    clients = found["plan"]["clients"]
    return [
        (f"{clients} clients: share of the ideal", ours["share_of_ideal"], ">= 0.85", ours["share_of_ideal"] >= 0.85),
        (f"{clients} clients: throughput, Aquatint / diffusers behind a lock", ratio, ">= 1.50", ratio >= 1.5),
        ("lonely client: latency, Aquatint over HTTP / diffusers in-process", overhead, "<= 1.10", overhead <= 1.1),
        ("arrivals at 1.2x: Aquatint's p95 / lonely p95", crowded, "< 3.00", crowded < 3.0),
        ("arrivals at 1.2x: the lock's latency, last third / first third", growth, "grows", growth > 1.5),
    ]


def slowdown(found: Mapping[str, Any], server: str) -> float:
    """p95 under the open loop over the lonely client's p95, for the same kind of work."""
    lonely = [job["aquatint"] for job in found["lonely"]]
    return percentile(found["open"][server]["latencies"], 0.95) / percentile(lonely, 0.95)


def growing(latencies: Sequence[float]) -> float:
    """Mean latency of the last third of the arrivals over that of the first third."""
    third = max(1, len(latencies) // 3)
    return fmean(latencies[-third:]) / fmean(latencies[:third])


def text(found: Mapping[str, Any]) -> str:
    """The table, in Markdown that also reads well on a terminal."""
    plan, crowded = found["plan"], found["open"]
    lines = [
        f"| {plan['clients']} clients, mixed requests | images/s | p50 s | p95 s | rows per tick | of the ideal |",
        "|---|---:|---:|---:|---:|---:|",
        f"| the limit: bare networks, full batches | {found['ideal_images_per_second']:.2f} | | | | 100 % |",
    ]
    for line in found["closed"]:
        rows = f"{line['rows_per_tick']:.1f}" if "rows_per_tick" in line else ""
        failed = f" ({line['errors']} failed)" if line["errors"] else ""
        lines.append(
            f"| {line['server']}{failed} | {line['images_per_second']:.2f} | {line['p50']:.1f} | {line['p95']:.1f} "
            f"| {rows} | {line['share_of_ideal']:.0%} |".replace("%", " %")
        )
    lines += ["", "| one client at a time | mean s | p50 s |", "|---|---:|---:|"]
    for key, name in (
        ("in_process", "diffusers called in-process"),
        ("aquatint", "Aquatint over HTTP"),
        ("serial", "diffusers behind a lock, over HTTP"),
    ):
        seconds = [job[key] for job in found["lonely"]]
        lines.append(f"| {name} | {fmean(seconds):.3f} | {median(seconds):.3f} |")
    lines += [
        "",
        f"| arrivals at {crowded['rate']:.2f}/s for {crowded['seconds']:.0f} s | p50 s | p95 s | last third / first third |",
        "|---|---:|---:|---:|",
    ]
    for key, name in (("aquatint", "Aquatint"), ("serial", "diffusers behind a lock")):
        waits = crowded[key]["latencies"]
        failed = f" ({crowded[key]['errors']} failed)" if crowded[key]["errors"] else ""
        lines.append(f"| {name}{failed} | {percentile(waits, 0.5):.1f} | {percentile(waits, 0.95):.1f} | {growing(waits):.1f}x |")
    lines += ["", "| target | measured | wanted | |", "|---|---:|---:|---|"]
    lines += [
        f"| {name} | {value:.2f} | {wanted} | {'met' if met else 'missed'} |" for name, value, wanted, met in targets(found)
    ]
    box = found["machine"]
    worst = max(found["picture_difference"].values())
    lines.append("")
    lines.append(
        f"Measured {box['when'][:10]} at {box['commit']} on {box['cpus']} CPU cores, {box['threads']} threads, float32, "
        f"torch {box['torch']}, by `{box['command']}`. The pictures differ from diffusers' own by at most {worst}/255."
    )
    return "\n".join(lines)


def write_readme(readme: Path, found: Mapping[str, Any]) -> None:
    """Put the table between the two marks."""
    whole = readme.read_text(encoding="utf-8")
    head, rest = whole.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    readme.write_text(f"{head}{BEGIN}\n{text(found)}\n{END}{tail}", encoding="utf-8")
