"""From the samples of one run to the comparison: medians, ratios to the best fp32 peer, goals, a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from vl2v_deploy.benchmarking.judge.speed import samples_of, timing_from_cell
from vl2v_deploy.benchmarking.judge.statistics import percentile_ms
from vl2v_deploy.benchmarking.measure.rounds import Timed
from vl2v_deploy.benchmarking.schema import TimingCell

# Whether a peer computes in fp32, and may thus be the yardstick.
PEERS = {
    "torch eager": True,
    "torch.compile": True,
    "timm's ONNX in onnxruntime": True,
    "timm's ONNX in OpenVINO": True,
    "timm's ONNX in OpenVINO, its own precision": False,
}
REFERENCE = "torch eager"
OURS, FLOOR = "our bundle, ", "floor of "
# fp32 peers preprocess alike: where labels differ, two of them are all but tied.
SAME_LABELS = 0.9
PARTS = ("decode", "resize", "session", "rest")


def size_result(
    timed: Mapping[str, Timed], labels: Mapping[str, Sequence[int]], goal: float, goal_over_floor: float
) -> dict[str, Any]:
    """What the report says of one model on photographs of one size.

    labels:          of the engines that could be asked, by name
    goal:            most p50 of ours over that of the best fp32 peer
    goal_over_floor: most p50 of ours over the floor's
    """
    engines = {name: engine_result(result, labels.get(name), labels) for name, result in timed.items()}
    p50 = {name: engine["p50_ms"] for name, engine in engines.items() if engine["p50_ms"] is not None}
    yardsticks = {name: p50[name] for name, is_fp32 in PEERS.items() if is_fp32 and name in p50}
    best = min(yardsticks, key=lambda name: yardsticks[name]) if yardsticks else None
    ours = {name: ms for name, ms in p50.items() if name.startswith(OURS)}
    over_floor = {
        name: ms / p50[floor]
        for name, ms in ours.items()
        if (floor := FLOOR + name.removeprefix(OURS)) in p50
    }
    fastest = min(ours, key=lambda name: ours[name]) if ours else None
    ratio = ours[fastest] / yardsticks[best] if fastest and best else None
    return {
        "best_fp32_peer": best,
        "ratio_to_best_fp32_peer": {name: ms / yardsticks[best] for name, ms in p50.items()} if best else {},
        "ours_over_floor": over_floor,
        "fastest_of_ours": fastest,
        "goal": {"at_most": goal, "reached": ratio, "met": None if ratio is None else ratio <= goal},
        "goal_over_floor": {
            "at_most": goal_over_floor,
            "met": all(value <= goal_over_floor for value in over_floor.values()) if over_floor else None,
        },
        "engines": engines,
    }


def engine_result(
    timed: Timed, labels: Sequence[int] | None, all_labels: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Times, label agreement with torch eager, raw samples by scope; the reason where it failed.

    The harness takes samples enough for a median from JPEG to label; of the session there may be fewer.
    """
    cells = {cell.scope: cell for cell in timed.measured()}
    reference = all_labels.get(REFERENCE)
    same = None
    if labels is not None and reference is not None:
        same = sum(a == b for a, b in zip(labels, reference, strict=True)) / len(reference)
    return {
        "failure": timed.failure,
        "provider": timed.facts.get("provider"),
        "load_s": timed.facts.get("load_s"),
        "peak_rss_bytes": timed.facts.get("peak_rss_bytes"),
        "p50_ms": _p50_ms(cells.get("bytes_to_label")),
        "session_mean_ms": timing_from_cell(cells["session"]).mean_ms if "session" in cells else None,
        "samples": {scope: len(samples_of(cell)) for scope, cell in cells.items()},
        "steady": all(cell.steady for cell in cells.values()),
        "agreement_torch_eager": same,
        "labels": list(labels) if labels is not None else None,
        "rounds_s": {scope: cell.rounds_s for scope, cell in cells.items()},
    }


def table(report: Mapping[str, Any], name: str, size: str) -> Table:
    """One model on photographs of one size, for a terminal."""
    model = report["models"][name]
    shown = Table(
        title=f"{name} at {model['image_size_px']} px, JPEGs of {size}, {report['threads']} threads",
        title_justify="left",
    )
    for title in ("", *COLUMNS):
        shown.add_column(title, justify="right" if title else "left")
    for cells in rows(model["sizes"][size]):
        shown.add_row(*cells, end_section=cells[0] == list(PEERS)[-1])
    return shown


COLUMNS = ("JPEG to label, p50 ms", "to best fp32 peer", "session, mean ms", "same label as torch eager")


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row of the table each engine: its name, then COLUMNS; every number is the report's, rounded."""
    for name, engine in result["engines"].items():
        if engine["failure"]:
            yield (name, "failed", "", "", "")
            continue
        ratio = result["ratio_to_best_fp32_peer"].get(name)
        same = engine["agreement_torch_eager"]
        yield (
            name,
            _shown(engine["p50_ms"]),
            "" if ratio is None else f"{ratio:.2f}",
            _shown(engine["session_mean_ms"]),
            "" if same is None else f"{100 * same:.0f} %",
        )


def explained(report: Mapping[str, Any]) -> list[str]:
    """Whether the goals were met, with their numbers; a line that begins with WRONG is an error."""
    lines: list[str] = []
    for name, model in report["models"].items():
        for size, result in model["sizes"].items():
            where = f"{name}, {size}"
            lines += _goals(where, result)
            lines += _wrong(where, result)
            for precision, profile in result.get("profile", {}).items():
                lines.append(f"{where}: our client's p50 in {precision}: {_profile(profile)}")
    return lines


def _goals(where: str, result: Mapping[str, Any]) -> Iterator[str]:
    goal = result["goal"]
    if goal["reached"] is not None:
        yield (
            f"{where}: {result['fastest_of_ours']} takes {goal['reached']:.2f} of the time of the best fp32 "
            f"peer, {result['best_fp32_peer']}; the goal of {goal['at_most']:g} is "
            f"{'' if goal['met'] else 'not '}met"
        )
    for name, over in result["ours_over_floor"].items():
        most = result["goal_over_floor"]["at_most"]
        yield (
            f"{where}: {name} takes {over:.3f} of decode + resize + session.run; the goal of {most:g} is "
            f"{'' if over <= most else 'not '}met"
        )


def _wrong(where: str, result: Mapping[str, Any]) -> Iterator[str]:
    engines = result["engines"]
    for name, is_fp32 in PEERS.items():
        same = engines[name]["agreement_torch_eager"]
        if is_fp32 and same is not None and same < SAME_LABELS:
            yield f"WRONG: {where}: {name} and {REFERENCE} agree on {100 * same:.0f} % of the labels only"
    for name, engine in engines.items():
        floor = engines.get(FLOOR + name.removeprefix(OURS)) if name.startswith(OURS) else None
        if floor and None not in (engine["labels"], floor["labels"]) and engine["labels"] != floor["labels"]:
            yield f"WRONG: {where}: {name} and its floor differ in labels: they do not do the same work"
        if engine["failure"]:  # a peer may lack what it needs, such as a compiler; ours may not
            yield f"{'' if name in PEERS else 'WRONG: '}{where}: {name} failed: {engine['failure']}"


def _profile(profile: Mapping[str, Any]) -> str:
    return ", ".join(f"{part} {profile[f'{part}_ms']:.2f} ms" for part in PARTS) + (
        f" of {profile['total_ms']:.2f} ms"
    )


def _p50_ms(cell: TimingCell | None) -> float | None:
    return percentile_ms(samples_of(cell), 50) if cell else None


def _shown(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.2f}"
