"""The tables of a report, as text: the terminal, report.md and report.html show the same ones."""

from __future__ import annotations

import numpy as np

from vl2v_deploy.benchmarking.judge.evidence import answering_teacher
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
from vl2v_deploy.benchmarking.report.cascade_tables import (
    cascade_domain_grid,
    cascade_grid,
    cascade_rule_grid,
)
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.benchmarking.schema import EngineMeasurement, EngineResult, Report

NOT_MLPERF = "MLPerf-style, not MLPerf: the same scenarios, without its rules, audit or data."

UNKNOWN = "unknown"


def grids(report: Report) -> dict[str, Grid]:
    """Every table of the report by name; one without rows has nothing to show."""
    primary, target = report.results.primary, report.measurements.images.target
    return {
        "summary": summary_grid(report),
        "domains": domain_grid(report),
        "quality": quality_grid(report),
        "timings": timing_grid(report),
        "processes": process_grid(report),
        "mlperf": mlperf_grid(report),
        "rooflines": roofline_grid(report),
        "cost": cost_grid(report),
        "sensitivity": sensitivity_grid(report),
        "cascade": cascade_grid(report),
        "cascade_domains": cascade_domain_grid(report),
        "cascade_rules": cascade_rule_grid(report),
        "by_class": class_grid(report),
        "confused": confused_grid(report, primary, target) if primary else Grid(()),
    }


def summary_grid(report: Report) -> Grid:
    """One row per measured engine: accuracy, latency, throughput, cost, size; the API below."""
    statistic, target = latency_statistic(report), report.measurements.images.target
    words = report.measurements.target_words
    of_target = "OOD" if words.is_source else words.short
    grid = Grid(("engine", "ID %", f"{of_target} %", f"{statistic} ms", "images/s", "$/million", "MB"))
    for name, result in report.results.engines.items():
        ood = result.domains[target]
        shares = percent(result.id_accuracy), with_interval(ood.accuracy, ood.low, ood.high)
        accuracy = (shares[1], UNKNOWN) if words.is_source else shares
        speed = (ms(latency_ms(result, statistic)), rate(result.best.images_per_s))
        size = megabytes(_engine(report, name).model_bytes)
        grid.rows.append((name, *accuracy, *speed, usd(result.usd_per_million), size))
    grid.rows.extend(_unmeasured_teacher(report))
    return grid


def recorded_teacher(report: Report) -> dict[str, float]:
    """The recorded accuracy of the teacher by domain; empty where it was asked here or not recorded."""
    if answering_teacher(report.measurements):
        return {}
    recorded = report.measurements.bundle.recorded_accuracy
    return dict(recorded.teacher or {}) if recorded else {}


def untimed_teacher(report: Report) -> dict[str, float]:
    """The accuracy by domain of a teacher that answered here and was not timed; empty for any other."""
    teacher = answering_teacher(report.measurements)
    if teacher is None or teacher.name in report.results.engines:
        return {}
    return {
        name: float(np.mean(np.array(teacher.predictions[name].labels) == np.array(domain.labels)))
        for name, domain in report.measurements.images.domains.items()
    }


def _unmeasured_teacher(report: Report) -> list[tuple[str, ...]]:
    """The API, which has a price but no time; or a teacher of which only the accuracy is known."""
    api = report.results.economics.teacher_api_usd_per_million
    target = report.measurements.images.target
    for kind, known in (("not timed", untimed_teacher(report)), ("recorded", recorded_teacher(report))):
        if target in known:
            sources = [accuracy for domain, accuracy in known.items() if domain != target]
            shares = (percent(float(np.mean(sources))) if sources else NONE, percent(known[target]))
            if report.measurements.target_words.is_source:
                shares = shares[1], UNKNOWN
            return [(f"teacher ({kind})", *shares, NONE, NONE, usd(api), NONE)]
    return [] if api is None else [("teacher (API)", NONE, NONE, NONE, NONE, usd(api), NONE)]


def latency_statistic(report: Report) -> str:
    """'p50' where every engine has enough samples for it, else 'mean'."""
    return "p50" if all(r.latency.p50_ms is not None for r in report.results.engines.values()) else "mean"


def latency_ms(result: EngineResult, statistic: str) -> float | None:
    """Encoded image to label at the smallest batch; `statistic` is p50 or mean."""
    return result.latency.p50_ms if statistic == "p50" else result.latency.mean_ms


def domain_grid(report: Report, engines: list[str] | None = None) -> Grid:
    """One row per domain: how it was used, and the accuracy of each engine.

    engines: None = all measured ones
    """
    names = list(report.results.engines) if engines is None else engines
    short = report.measurements.target_words.short
    grid = Grid(("domain", "use", "images", *(f"{name} %" for name in names)), words=(1,))
    for domain, images in report.measurements.images.domains.items():
        n, use = len(images.names), "ID" if images.role == "source" else short
        found = [report.results.engines[name].domains[domain] for name in names]
        accuracies = [with_interval(one.accuracy, one.low, one.high) for one in found]
        grid.rows.append((domain, use, str(n) if n == images.of else f"{n} of {images.of}", *accuracies))
    return grid


def quality_grid(report: Report) -> Grid:
    """One row per engine: calibration and agreement on the target, its worst domain."""
    short = report.measurements.target_words.short
    grid = Grid(
        ("engine", f"{short} ECE %", "as torch %", "as teacher %", "worst domain", "there %"), words=(4,)
    )
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
    columns = ("engine", "scope", "batch", "threads", "streams", "samples")
    grid = Grid((*columns, "mean ms", "p50 ms", "p90 ms", "p99 ms", "images/s"), words=(1,))
    for name, result in report.results.engines.items():
        for t in result.timings:
            setting = (str(t.batch), str(t.threads), str(t.streams), str(t.n))
            times = (ms(t.mean_ms), ms(t.p50_ms), ms(t.p90_ms), ms(t.p99_ms))
            note = "" if t.steady else " (not steady)"
            grid.rows.append((name, t.scope + note, *setting, *times, rate(t.images_per_s)))
    return grid


def process_grid(report: Report) -> Grid:
    """One row per worker process: where it ran, load time, memory, energy."""
    columns = ("engine", "ran on", "threads", "load s", "peak RSS MB", "GPU MB", "model MB", "J/image")
    grid = Grid(columns, words=(1,))
    for name, result in report.results.engines.items():
        engine, joules = _engine(report, name), result.joules_per_image
        for process in engine.processes:
            sizes = (process.peak_rss_bytes, process.gpu_memory_bytes, engine.model_bytes)
            setting = (name, process.provider, str(process.threads), duration(process.load_s))
            energy = NONE if joules is None else f"{joules:.3g}"
            grid.rows.append((*setting, *map(megabytes, sizes), energy))
    return grid


def mlperf_grid(report: Report) -> Grid:
    """One row per engine that ran single stream, offline or server; none where the scenario had none."""
    columns = ("engine", "single stream p50 ms", "p90 ms", "p99 ms", "offline images/s", "server images/s")
    grid = Grid((*columns, "why"), words=(6,))
    for name, result in report.results.engines.items():
        engine, server = _engine(report, name), result.server
        if not (engine.single_stream or engine.offline or server):
            continue
        samples = engine.single_stream.samples_s if engine.single_stream else []
        single = [ms(percentile_ms(samples, p)) if samples else NONE for p in (50, 90, 99)]
        offline = engine.offline and rate(engine.offline.images / engine.offline.wall_s)
        held, why = (rate(server.rate_per_s), server.why or NONE) if server else (NONE, NONE)
        grid.rows.append((name, *single, offline or NONE, held, why))
    return grid


def roofline_grid(report: Report) -> Grid:
    """One row for each engine, batch and number of threads that has a measured limit."""
    columns = ("engine", "batch", "threads", "bound by", "limit images/s", "session images/s", "share %")
    grid = Grid(columns, words=(3,))
    for name, result in report.results.engines.items():
        for r in result.roofline:
            rates = (rate(r.limit_images_per_s), rate(r.images_per_s), percent(r.share))
            grid.rows.append((name, str(r.batch), str(r.threads), r.bound_by, *rates))
    return grid


def cost_grid(report: Report) -> Grid:
    """One row per priced engine: USD per million, from what, and the images until it has paid for itself."""
    money = report.results.economics
    grid = Grid(("engine", "$/million", "break-even, API", "break-even, hosted", "priced as"), words=(4,))
    even = {
        (row.engine, row.against): "never" if row.inferences is None else f"{row.inferences:,.0f}"
        for row in money.break_even
    }
    for name, result in report.results.engines.items():
        if result.usd_per_million is not None:
            after = [even.get((name, against), NONE) for against in ("teacher API", "teacher hosted")]
            grid.rows.append((name, usd(result.usd_per_million), *after, result.priced_as or NONE))
    if money.teacher_api_usd_per_million is not None:
        price = f"API, ${report.prices.usd_per_1k_queries:g} per 1,000 queries"
        grid.rows.append(("teacher (API)", usd(money.teacher_api_usd_per_million), NONE, NONE, price))
    return grid


def sensitivity_grid(report: Report) -> Grid:
    """One row per priced engine: USD per million at each utilisation."""
    rows = report.results.economics.sensitivity
    grid = Grid(("$/million at", *(f"{100 * row.utilisation:g}%" for row in rows)))
    for name in rows[0].usd_per_million if rows else ():
        grid.rows.append((name, *(usd(row.usd_per_million[name]) for row in rows)))
    return grid


def confused_grid(report: Report, engine: str, domain: str, most: int = 10) -> Grid:
    """The pairs of classes that an engine confuses most in a domain.

    most: number of pairs at most
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
    """How many images there are of each pair (class, predicted class) that has any."""
    labels = report.measurements.images.domains[domain].labels
    predicted = _engine(report, engine).predictions[domain].labels
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    return {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, counts, strict=True)}


def class_grid(report: Report) -> Grid:
    """One row per class: accuracy in the target domain, hardest for the headline's engine first."""
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
