"""Two reports of the same benchmark on the same device: what changed beyond the noise.

A change is an accuracy that fails a paired test at LEVEL, or a time whose whole interval is outside the noise
band. The interval covers the rounds within each run; the band covers what differs between two runs as a whole
(another load on the machine, its temperature).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from vl2v_deploy.benchmarking.judge.comparable import changed_versions, is_asked_for, require_comparable
from vl2v_deploy.benchmarking.judge.speed import (
    best_cell,
    cell_images_per_s,
    latency_cell,
    samples_of,
    seconds_per_image,
)
from vl2v_deploy.benchmarking.judge.statistics import (
    FEWEST_ROUNDS,
    Floats,
    Hits,
    mcnemar_p,
    paired_difference,
    ratio_band,
)
from vl2v_deploy.benchmarking.judge.words import (
    NONE,
    duration,
    megabytes,
    ms,
    percent,
    rate,
    signed_points,
    usd,
)
from vl2v_deploy.benchmarking.scenario import Scenario, Strict
from vl2v_deploy.benchmarking.schema import EngineMeasurement, ImageSet, Report, TimingCell
from vl2v_deploy.client.target_words import TargetWords

Judgement = Literal["better", "worse", "same", "unclear", "not judged"]
LEVEL = 99.0  # per cent, of every interval and test here, as a report has dozens of rows
NOISE = 0.05
MEMORY_NOISE = 0.10  # resident memory depends on what the allocator returned


class Change(Strict):
    """One row: a quantity of one engine in both reports.

    before, after: as the table shows them
    change:        ratio or difference with its interval, in words
    verdict:       unclear = beyond the band, but its interval is not; not judged = measured once per run, so
                   its noise is unknown, or not asked for
    threshold:     what decided it
    """

    engine: str
    what: str
    before: str
    after: str
    change: str
    verdict: Judgement
    threshold: str


class ReportDiff(Strict):
    """What `vl2v-deploy compare` found.

    regression: whether any row is worse
    versions:   what differs in software, name: (before, after); it may be the reason
    """

    regression: bool
    noise: float
    rows: list[Change]
    versions: dict[str, tuple[str, str]]


def compare_reports(before: Report, after: Report, noise: float = NOISE) -> ReportDiff:
    """Every engine of `before` against the one of the same name in `after`.

    noise: share by which a time may differ between two runs by chance, >= 0

    Raises BenchmarkError where device, scenario, classes or images are not the same.
    """
    require_comparable(before, after)
    theirs = {engine.name: engine for engine in after.measurements.engines}
    rows: list[Change] = []
    for engine in before.measurements.engines:
        if engine.status != "measured":
            continue
        other = theirs.get(engine.name)
        if other is None or other.status != "measured":
            rows.append(_lost(engine, other, before.measurements.scenario, after.measurements.scenario))
            continue
        rows += _accuracy_rows(engine, other, before.measurements.images, _words(before, after))
        rows += _time_rows(engine, other, noise)
        rows += _size_rows(engine, other, noise)
        rows += _unjudged_rows(engine, other, before, after)
    return ReportDiff(
        regression=any(row.verdict == "worse" for row in rows),
        noise=noise,
        rows=rows,
        versions=changed_versions(before, after),
    )


def _lost(
    engine: EngineMeasurement, other: EngineMeasurement | None, before: Scenario, after: Scenario
) -> Change:
    """An engine that the second report lacks: a regression, unless its scenario did not ask for it."""
    reason = "not in the second report" if other is None else f"{other.status}: {other.reason}"
    same_request = (before.engines, before.teacher) == (after.engines, after.teacher)
    free = other is None and not same_request and not is_asked_for(engine, after)
    values = "measured", "not asked for" if free else reason
    threshold = "an engine that was measured before and is asked for again is measured again"
    return _row(engine.name, "engine", values, NONE, "not judged" if free else "worse", threshold)


def _words(before: Report, after: Report) -> TargetWords:
    """What accuracy on the target is called where either run may have seen it."""
    one, other = (report.measurements.target_words for report in (before, after))
    return TargetWords(one.adapted or other.adapted, one.oracle or other.oracle)


def _accuracy_rows(
    ours: EngineMeasurement, theirs: EngineMeasurement, images: ImageSet, words: TargetWords
) -> Iterator[Change]:
    """OOD and ID accuracy on the same images: exact McNemar, with groups the paired bootstrap over them."""
    # Of all source images together; a report's ID accuracy is the mean over the domains.
    for what, role in ((words.accuracy, "target"), ("ID accuracy, pooled", "source")):
        domains = [name for name, domain in images.domains.items() if domain.role == role]
        if not domains:  # no domain was kept unseen
            continue
        groups = [group for name in domains for group in images.domains[name].groups]
        old, new = (_hits(engine, images, domains) for engine in (ours, theirs))
        difference, low, high = paired_difference(new, old, groups, LEVEL)
        if len(set(groups)) == len(groups):
            changed = mcnemar_p(new, old) < 1 - LEVEL / 100
            threshold = f"exact McNemar test of {len(groups):,} images, p < {1 - LEVEL / 100:.2g}"
        else:
            changed = (low > 0 or high < 0) and bool((old != new).any())
            threshold = f"paired bootstrap over {len(set(groups)):,} groups, {LEVEL:g} % interval without 0"
        verdict: Judgement = "same" if not changed else "better" if difference > 0 else "worse"
        values = percent(float(old.mean())), percent(float(new.mean()))
        change = f"{100 * difference:+.1f} ({signed_points(low, high)})"
        yield _row(ours.name, f"{what} %", values, change, verdict, threshold)


def _hits(engine: EngineMeasurement, images: ImageSet, domains: Sequence[str]) -> Hits:
    right = [
        np.array(engine.predictions[name].labels) == np.array(images.domains[name].labels) for name in domains
    ]
    return np.concatenate(right)


def _time_rows(ours: EngineMeasurement, theirs: EngineMeasurement, noise: float) -> Iterator[Change]:
    """Latency (medians) and throughput (means) at the settings of the first report."""
    latency = latency_cell(ours.cells)
    other = _same_setting(latency, theirs.cells)
    seconds = _band(_rounds(latency), _rounds(other), np.median) if other else None
    shown = [ms(1e3 * float(np.median(samples_of(cell)))) if cell else NONE for cell in (latency, other)]
    yield _ratio_row(ours.name, "latency ms", shown, seconds, noise)
    best = best_cell(ours.cells)
    other = _same_setting(best, theirs.cells)
    seconds = _band(seconds_per_image(best), seconds_per_image(other), np.mean) if other else None
    shown = [rate(cell_images_per_s(cell)) if cell else NONE for cell in (best, other)]
    yield _ratio_row(ours.name, "images/s", shown, seconds, noise, more_is_better=True)


def _rounds(cell: TimingCell) -> list[list[float]]:
    return [one for one in cell.rounds_s if one]


def _same_setting(cell: TimingCell, cells: Sequence[TimingCell]) -> TimingCell | None:
    setting = (cell.scope, cell.batch, cell.threads, cell.streams)
    same = [c for c in cells if (c.scope, c.batch, c.threads, c.streams) == setting and any(c.rounds_s)]
    return same[0] if same else None


def _band(
    old: Sequence[Sequence[float]],
    new: Sequence[Sequence[float]],
    statistic: Callable[[Floats], np.floating[Any]],
) -> tuple[float, float, float] | None:
    """Seconds after over seconds before with its interval; None where rounds are too few for one."""
    if min(len(old), len(new)) < FEWEST_ROUNDS:
        return None
    return ratio_band(new, old, statistic, paired=False, level=LEVEL)


def _ratio_row(
    engine: str,
    what: str,
    values: Sequence[str],
    seconds: tuple[float, float, float] | None,
    noise: float,
    *,
    more_is_better: bool = False,
) -> Change:
    """A row of times; `seconds` is after over before, so above 1 is worse whatever the row shows."""
    threshold = f"the whole {LEVEL:g} % interval of the ratio is outside 1/{1 + noise:g} to {1 + noise:g}"
    change = NONE
    if seconds is None:
        threshold = f"at least {FEWEST_ROUNDS} rounds of the same setting in both reports"
    else:
        ratio, low, high = seconds
        shown = (1 / ratio, 1 / high, 1 / low) if more_is_better else seconds
        change = f"x{shown[0]:.2f} ({shown[1]:.2f}-{shown[2]:.2f})"
    return _row(engine, what, values, change, _judged(seconds, noise), threshold)


def _judged(seconds: tuple[float, float, float] | None, noise: float) -> Judgement:
    if seconds is None:
        return "unclear"
    ratio, low, high = seconds
    if low > 1 + noise:
        return "worse"
    if high < 1 / (1 + noise):
        return "better"
    # A ratio beyond the band is not "the same" just because its interval is wide.
    return "same" if 1 / (1 + noise) <= ratio <= 1 + noise else "unclear"


def _size_rows(ours: EngineMeasurement, theirs: EngineMeasurement, noise: float) -> Iterator[Change]:
    """Memory and model size, which have so little noise that one figure per report is enough."""
    figures = (
        ("peak RSS MB", _most(ours, "peak_rss_bytes"), _most(theirs, "peak_rss_bytes"), MEMORY_NOISE),
        ("GPU MB", _most(ours, "gpu_memory_bytes"), _most(theirs, "gpu_memory_bytes"), MEMORY_NOISE),
        ("model MB", ours.model_bytes, theirs.model_bytes, noise),
    )
    for what, old, new, band in figures:
        if not old or not new:
            continue
        band = max(band, noise)
        grown, shrunk = new > old * (1 + band), new < old / (1 + band)
        verdict: Judgement = "worse" if grown else "better" if shrunk else "same"
        values, threshold = (megabytes(old), megabytes(new)), f"differs by more than {100 * band:g} %"
        yield _row(ours.name, what, values, f"x{new / old:.2f}", verdict, threshold)


def _most(engine: EngineMeasurement, field: str) -> int | None:
    known = [value for process in engine.processes if (value := getattr(process, field)) is not None]
    return max(known) if known else None


def _unjudged_rows(
    ours: EngineMeasurement, theirs: EngineMeasurement, before: Report, after: Report
) -> Iterator[Change]:
    """Load time, of which each report has one sample, and cost, which follows from images/s and prices."""
    if ours.processes and theirs.processes:
        loads = [duration(engine.processes[0].load_s) for engine in (ours, theirs)]
        yield _row(ours.name, "load s", loads, NONE, "not judged", "measured once per run")
    costs = [report.results.engines[ours.name].usd_per_million for report in (before, after)]
    if None not in costs:
        why = "follows from images/s" if before.prices == after.prices else "the prices differ too"
        yield _row(ours.name, "$/million", [usd(cost) for cost in costs], NONE, "not judged", why)


def _row(
    engine: str, what: str, values: Sequence[str], change: str, verdict: Judgement, threshold: str
) -> Change:
    before, after = values
    return Change(
        engine=engine,
        what=what,
        before=before,
        after=after,
        change=change,
        verdict=verdict,
        threshold=threshold,
    )
