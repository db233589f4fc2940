"""The tables of a report, as text: the terminal, report.md and report.html show the same ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vl2v_deploy.benchmarking.judge.speed import samples_of
from vl2v_deploy.benchmarking.judge.statistics import percentile_ms
from vl2v_deploy.benchmarking.judge.words import (
    NONE,
    duration,
    megabytes,
    ms,
    percent,
    rate,
    usd,
    with_interval,
)
from vl2v_deploy.benchmarking.schema import EngineMeasurement, EngineResult, Report

NOT_MLPERF = "MLPerf-style, not MLPerf: the same scenarios, without its rules, audit or data."


@dataclass(frozen=True)
class Grid:
    """A table of text: the first column holds names, the others numbers unless `words` says otherwise.

    words: indices of further columns that hold words
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    words: tuple[int, ...] = ()


def summary_grid(report: Report) -> Grid:
    """One row a measured engine: accuracy, latency, throughput, cost, size; the API below."""
    statistic = latency_statistic(report)
    columns = ("engine", "ID %", "OOD %", f"{statistic} ms", "images/s", "$/million", "MB")
    grid = Grid(columns)
    target = report.measurements.images.target
    for name, result in report.results.engines.items():
        ood = result.domains[target]
        grid.rows.append(
            (
                name,
                percent(result.id_accuracy),
                with_interval(ood.accuracy, ood.low, ood.high),
                ms(latency_ms(result, statistic)),
                rate(result.best.images_per_s),
                usd(result.usd_per_million),
                megabytes(_engine(report, name).model_bytes),
            )
        )
    return Grid(columns, grid.rows + _unmeasured_teacher(report))


def recorded_teacher(report: Report) -> dict[str, float]:
    """The recorded accuracy of the teacher by domain; empty where it was measured, or never recorded."""
    if any(e.kind == "teacher" and e.status == "measured" for e in report.measurements.engines):
        return {}
    recorded = report.measurements.bundle.recorded_accuracy
    return dict(recorded.teacher or {}) if recorded else {}


def _unmeasured_teacher(report: Report) -> list[tuple[str, ...]]:
    """The API, which has a price and no time here; the recorded teacher where none was measured."""
    api = report.results.economics.teacher_api_usd_per_million
    target, recorded = report.measurements.images.target, recorded_teacher(report)
    if target in recorded:
        sources = [accuracy for domain, accuracy in recorded.items() if domain != target]
        known = (percent(float(np.mean(sources))) if sources else NONE, percent(recorded[target]))
        return [("teacher (recorded)", *known, NONE, NONE, usd(api), NONE)]
    return [] if api is None else [("teacher (API)", NONE, NONE, NONE, NONE, usd(api), NONE)]


def latency_statistic(report: Report) -> str:
    """'p50' where every engine has enough samples for it, else 'mean'."""
    return "p50" if all(r.latency.p50_ms is not None for r in report.results.engines.values()) else "mean"


def latency_ms(result: EngineResult, statistic: str) -> float | None:
    """Encoded image to label at the smallest batch, as `latency_statistic` has it."""
    return result.latency.p50_ms if statistic == "p50" else result.latency.mean_ms


def domain_grid(report: Report, engines: list[str] | None = None) -> Grid:
    """One row a domain: how it was used, and the accuracy of each engine.

    engines: which; None = all measured ones
    """
    names = list(report.results.engines) if engines is None else engines
    grid = Grid(("domain", "use", "images", *(f"{name} %" for name in names)), words=(1,))
    for domain, images in report.measurements.images.domains.items():
        n = len(images.names)
        row = [
            domain,
            "ID" if images.role == "source" else "OOD",
            str(n) if n == images.of else f"{n} of {images.of}",
        ]
        for name in names:
            accuracy = report.results.engines[name].domains[domain]
            row.append(with_interval(accuracy.accuracy, accuracy.low, accuracy.high))
        grid.rows.append(tuple(row))
    return grid


def quality_grid(report: Report) -> Grid:
    """One row an engine: calibration and agreement OOD, its worst domain."""
    grid = Grid(("engine", "OOD ECE %", "as torch %", "as teacher %", "worst domain", "there %"), words=(4,))
    target = report.measurements.images.target
    for name, result in report.results.engines.items():
        ood, worst = result.domains[target], result.worst_domain
        agreements = (percent(ood.agreement_torch), percent(ood.agreement_teacher))
        grid.rows.append(
            (name, percent(ood.ece), *agreements, worst, percent(result.domains[worst].accuracy))
        )
    return grid


def timing_grid(report: Report) -> Grid:
    """One row for each engine, scope, batch size, number of threads and of streams."""
    columns = (
        "engine",
        "scope",
        "batch",
        "threads",
        "streams",
        "samples",
        "mean ms",
        "p50 ms",
        "p90 ms",
        "p99 ms",
    )
    grid = Grid((*columns, "images/s"), words=(1,))
    for name, result in report.results.engines.items():
        for t in result.timings:
            setting = (str(t.batch), str(t.threads), str(t.streams), str(t.n))
            times = (ms(t.mean_ms), ms(t.p50_ms), ms(t.p90_ms), ms(t.p99_ms))
            note = "" if t.steady else " (not steady)"
            grid.rows.append((name, t.scope + note, *setting, *times, rate(t.images_per_s)))
    return grid


def process_grid(report: Report) -> Grid:
    """One row a worker process: where it ran, load time, memory, energy."""
    columns = ("engine", "ran on", "threads", "load s", "peak RSS MB", "GPU MB", "model MB", "J/image")
    grid = Grid(columns, words=(1,))
    for name, result in report.results.engines.items():
        engine = _engine(report, name)
        for process in engine.processes:
            grid.rows.append(
                (
                    name,
                    process.provider,
                    str(process.threads),
                    duration(process.load_s),
                    megabytes(process.peak_rss_bytes),
                    megabytes(process.gpu_memory_bytes),
                    megabytes(engine.model_bytes),
                    NONE if result.joules_per_image is None else f"{result.joules_per_image:.3g}",
                )
            )
    return grid


def mlperf_grid(report: Report) -> Grid:
    """One row an engine that ran single stream, offline or server; empty where the scenario had none."""
    columns = (
        "engine",
        "single stream p50 ms",
        "p90 ms",
        "p99 ms",
        "offline images/s",
        "server images/s",
        "why",
    )
    grid = Grid(columns, words=(6,))
    for name, result in report.results.engines.items():
        engine = _engine(report, name)
        if not (engine.single_stream or engine.offline or result.server):
            continue
        samples = engine.single_stream.samples_s if engine.single_stream else []
        single = [ms(percentile_ms(samples, p)) if samples else NONE for p in (50, 90, 99)]
        offline = engine.offline and rate(engine.offline.images / engine.offline.wall_s)
        server = result.server
        held = rate(server.rate_per_s) if server else NONE
        grid.rows.append((name, *single, offline or NONE, held, (server.why if server else None) or NONE))
    return grid


def roofline_grid(report: Report) -> Grid:
    """One row for each engine, batch and number of threads that has a measured limit.

    unfused MB: what an image's activations would move if no two operators were fused; the limit leaves it out
    """
    columns = ("engine", "batch", "threads", "bound by", "limit images/s", "session images/s", "share %")
    grid = Grid((*columns, "unfused MB"), words=(3,))
    for name, result in report.results.engines.items():
        work = _engine(report, name).work
        unfused = megabytes(work.activation_bytes if work else None)
        for r in result.roofline:
            setting = (str(r.batch), str(r.threads), r.bound_by)
            grid.rows.append(
                (name, *setting, rate(r.limit_images_per_s), rate(r.images_per_s), percent(r.share), unfused)
            )
    return grid


def cost_grid(report: Report) -> Grid:
    """One row a priced engine: USD per million, from what, and the images until it has paid for itself."""
    money = report.results.economics
    grid = Grid(("engine", "$/million", "break-even, API", "break-even, hosted", "priced as"), words=(4,))
    even = {(row.engine, row.against): row.inferences for row in money.break_even}
    for name, result in report.results.engines.items():
        if result.usd_per_million is None:
            continue
        after = []
        for against in ("teacher API", "teacher hosted"):
            if (name, against) not in even:
                after.append(NONE)
            else:
                images = even[name, against]
                after.append("never" if images is None else f"{images:,.0f}")
        grid.rows.append((name, usd(result.usd_per_million), *after, result.priced_as or NONE))
    if money.teacher_api_usd_per_million is not None:
        price = f"API, ${report.prices.usd_per_1k_queries:g} per 1,000 queries"
        grid.rows.append(("teacher (API)", usd(money.teacher_api_usd_per_million), NONE, NONE, price))
    return grid


def sensitivity_grid(report: Report) -> Grid:
    """One row a priced engine: USD per million at each utilisation."""
    rows = report.results.economics.sensitivity
    grid = Grid(("$/million at", *(f"{100 * row.utilisation:g}%" for row in rows)))
    for name in rows[0].usd_per_million if rows else ():
        grid.rows.append((name, *(usd(row.usd_per_million[name]) for row in rows)))
    return grid


def confused_grid(report: Report, engine: str, domain: str, most: int = 10) -> Grid:
    """The pairs of classes that an engine confuses most in a domain.

    most: how many pairs at most
    """
    classes = report.measurements.bundle.classes
    grid = Grid(("of class", "taken for", "images", "of that class %"), words=(1,))
    counts = confusion(report, engine, domain)
    seen = np.bincount(report.measurements.images.domains[domain].labels, minlength=len(classes))
    pairs = [(n, true, predicted) for (true, predicted), n in counts.items() if true != predicted]
    for n, true, predicted in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:most]:
        grid.rows.append((classes[true], classes[predicted], str(n), percent(n / seen[true])))
    return grid


def confusion(report: Report, engine: str, domain: str) -> dict[tuple[int, int], int]:
    """How many images of (class, predicted class) there are, for those pairs that have some."""
    labels = report.measurements.images.domains[domain].labels
    predicted = _engine(report, engine).predictions[domain].labels
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    return {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, counts, strict=True)}


def class_grid(report: Report) -> Grid:
    """One row a class: accuracy in the target domain, hardest for the headline's engine first."""
    names, target = list(report.results.engines), report.measurements.images.target
    grid = Grid(("class", "images", *(f"{name} %" for name in names)))
    by_engine = {name: report.results.engines[name].domains[target].per_class for name in names}
    if not names:
        return grid
    first = by_engine[report.results.primary or names[0]]
    classes = [name for name in first if first[name].n]
    for label in sorted(classes, key=lambda label: first[label].correct / first[label].n):
        shares = [percent(by_engine[name][label].correct / by_engine[name][label].n) for name in names]
        grid.rows.append((label, str(first[label].n), *shares))
    return grid


def sampled_ms(report: Report, engine: str) -> list[float]:
    """All samples of an engine's latency (encoded image to label, smallest batch) in milliseconds."""
    result = report.results.engines[engine].latency
    for cell in _engine(report, engine).cells:
        setting = (cell.scope, cell.batch, cell.threads, cell.streams)
        if setting == (result.scope, result.batch, result.threads, result.streams):
            return [1e3 * sample for sample in samples_of(cell)]
    raise KeyError(engine)


def _engine(report: Report, name: str) -> EngineMeasurement:
    return next(engine for engine in report.measurements.engines if engine.name == name)
