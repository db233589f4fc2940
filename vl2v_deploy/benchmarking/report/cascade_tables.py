"""The tables of a report's cascade; without rows where it has none."""

from __future__ import annotations

from vl2v_deploy.benchmarking.judge.words import NONE, percent, signed_points, usd, with_interval
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.benchmarking.schema import Report


def cascade_grid(report: Report) -> Grid:
    """One row per threshold: what source validation promised, and what each kind of domain gets."""
    short = report.measurements.target_words.short
    columns = (
        "promised %",
        "threshold",
        "ID sent %",
        "ID %",
        f"{short} sent %",
        f"{short} %",
        "ID $/million",
    )
    grid = Grid((*columns, f"{short} $/million"))
    result, target = report.results.cascade, report.measurements.images.target
    if result is None:
        return grid
    points = {point.threshold: point for point in (result.chosen, *result.points)}
    for point in sorted(points.values(), key=lambda one: one.promised):
        ids, ood = point.in_domain, point.domains[target]
        accuracies = [with_interval(one.accuracy, one.low, one.high) for one in (ids, ood)]
        sent = (percent(ids.share), accuracies[0], percent(ood.share), accuracies[1])
        costs = (usd(ids.usd_per_million), usd(ood.usd_per_million))
        grid.rows.append((percent(point.promised), f"{point.threshold:.3g}", *sent, *costs))
    return grid


def cascade_domain_grid(report: Report) -> Grid:
    """One row per domain: student, cascade at the chosen threshold, teacher, and what asking changes."""
    grid = Grid(
        ("domain", "use", "student %", "cascade %", "teacher %", "sent %", "change", "95 % interval"),
        words=(1,),
    )
    result = report.results.cascade
    if result is None:
        return grid
    for name, change in result.domains.items():
        chosen = result.chosen.domains[name]
        accuracies = (change.student, chosen.accuracy, change.teacher, chosen.share)
        interval = signed_points(change.low, change.high)
        short = report.measurements.target_words.short
        use = short if name == report.measurements.images.target else "ID"
        grid.rows.append((name, use, *map(percent, accuracies), f"{100 * change.difference:+.1f}", interval))
    return grid


def cascade_rule_grid(report: Report) -> Grid:
    """One row per deferral rule and way of joining: its mean accuracy on source validation."""
    grid = Grid(("asked by", "joined", "student's weight", "mean accuracy %"), words=(1,))
    result = report.results.cascade
    for rule in result.rules if result else ():
        weight = f"{rule.student_weight:g}" if rule.combine == "mixed" else NONE
        grid.rows.append((rule.deferral, rule.combine.replace("_", " "), weight, f"{100 * rule.area:.2f}"))
    return grid
