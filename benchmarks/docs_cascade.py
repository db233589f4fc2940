"""Tables and figures of cascade and Monitor, for docs_figures.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.docs_files import json_of
from vl2v_deploy.benchmarking.cascade.choose import DEFERRALS, SHARE_OF_GAIN
from vl2v_deploy.benchmarking.report.grid import Grid

CASCADE = "cascade/cascade.json"
SOURCES = tuple(f"sources: {name}" for name in ("student %", "sent %", "cascade %", "teacher %"))


def drift_table(results: Path) -> Grid:
    """How often, and after how many images, a Monitor alarms: one row a bundle of benchmarks/drift.py."""
    grid = Grid(
        (
            "student",
            "source %",
            "unseen %",
            "alarms on unseen %",
            "median image",
            "on sources %",
            "fresh %",
            "groups %",
        )
    )
    for path in sorted((results / "drift").glob("*.json")):
        for name, facts in json_of(path)["bundles"].items():
            rows = {row: found["by_alpha"]["0.01"] for row, found in facts["rows"].items()}
            median = rows["unseen style"]["images_until_alarm"]["p50"]
            shares = [facts["source_accuracy"], facts["unseen_accuracy"], rows["unseen style"]["alarms"]]
            false = [
                rows[row]["alarms"] for row in ("source styles", "fresh reference", "fresh reference, groups")
            ]
            cells = [f"{100 * share:.1f}" for share in (*shares, *false)]
            grid.rows.append((name, *cells[:3], "-" if median is None else str(median), *cells[3:]))
    return grid


def cascade_table(results: Path) -> Grid:
    """What a cascade at the share that source validation chose is worth: one row a student."""
    columns = ("student %", "sent %", "cascade %", "teacher %")
    grid = Grid(("unseen style", "promised %", *(f"unseen: {name}" for name in columns), *SOURCES))
    for one in json_of(results / CASCADE)["students"]:
        at, alone, teacher = one["at_chosen_share"], one["curve"][0], one["teacher"]
        known = [accuracy for domain, accuracy in teacher.items() if domain != one["target"]]
        shares = [at["promised"], alone["ood"], at["share_ood"], at["ood"], teacher[one["target"]]]
        shares += [alone["in_domain"], at["share_in_domain"], at["in_domain"], sum(known) / len(known)]
        grid.rows.append((one["name"], *(f"{100 * share:.1f}" for share in shares)))
    return grid


def cascade_figures(results: Path) -> dict[str, str]:
    """Means over the students of benchmarks/cascade.py, and what other deferral rules gain or lose."""
    report = json_of(results / CASCADE)
    students, rules = report["students"], report["rules"]

    def mean(shares: Sequence[float]) -> str:
        return f"{100 * sum(shares) / len(shares):.1f}"

    def gain(rule: str) -> float:
        return max(float(row["ood_gain"]) for row in rules if row["rule"] == rule)

    others = {row["rule"] for row in rules} - set(DEFERRALS)
    return {
        "cascade.ood_student": mean([one["curve"][0]["ood"] for one in students]),
        "cascade.ood": mean([one["at_chosen_share"]["ood"] for one in students]),
        "cascade.ood_teacher": mean([one["teacher"][one["target"]] for one in students]),
        "cascade.sent_ood": mean([one["at_chosen_share"]["share_ood"] for one in students]),
        "cascade.best_ood": mean([one["at_best_share_of_validation"]["ood"] for one in students]),
        "cascade.best_sent_ood": mean([one["at_best_share_of_validation"]["share_ood"] for one in students]),
        "cascade.share_of_gain": f"{100 * SHARE_OF_GAIN:.0f}",
        "cascade.promised": mean([one["at_chosen_share"]["promised"] for one in students]),
        "cascade.best_promised": mean([one["at_best_share_of_validation"]["promised"] for one in students]),
        "cascade.margin_gain": f"{100 * gain('margin'):.1f}",
        "cascade.entropy_loss": f"{-100 * gain('entropy'):.1f}",
        "cascade.least_loss_of_others": f"{-100 * max(map(gain, others)):.1f}",
    }
