"""What the raw times of an engine come to: latency, throughput, the rate that a server holds."""

from __future__ import annotations

from collections.abc import Sequence

from vl2v_deploy.benchmarking.judge.statistics import images_per_s, percentile_ms
from vl2v_deploy.benchmarking.judge.words import ms, rate
from vl2v_deploy.benchmarking.scenario import Server
from vl2v_deploy.benchmarking.schema import ServerResult, ServerRun, ServerTrial, Timing, TimingCell


def samples_of(cell: TimingCell) -> list[float]:
    """All samples of a cell in seconds, in the order they were taken."""
    return [sample for one_round in cell.rounds_s for sample in one_round]


def cell_images_per_s(cell: TimingCell) -> float:
    """Throughput of a cell: all its images over all its time.

    With several streams calls overlap, so the time is from each round's first start to its last end.
    """
    samples_s = samples_of(cell)
    if cell.streams > 1:
        return cell.batch * len(samples_s) / sum(cell.wall_s)
    return images_per_s(samples_s, cell.batch)


def seconds_per_image(cell: TimingCell) -> list[list[float]]:
    """Seconds per image of each call, by round that has samples; their mean is one over the throughput.

    With several streams all calls of a round share its wall time.
    """
    rounds = []
    for number, samples in enumerate(cell.rounds_s):
        if not samples:
            continue
        if cell.streams > 1:
            rounds.append([cell.wall_s[number] / cell.batch / len(samples)] * len(samples))
        else:
            rounds.append([sample / cell.batch for sample in samples])
    return rounds


def timing_from_cell(cell: TimingCell) -> Timing:
    """Statistics of a cell that has samples."""
    samples_s = samples_of(cell)
    return Timing(
        scope=cell.scope,
        batch=cell.batch,
        threads=cell.threads,
        streams=cell.streams,
        n=len(samples_s),
        mean_ms=1e3 * sum(samples_s) / len(samples_s),
        p50_ms=percentile_ms(samples_s, 50),
        p90_ms=percentile_ms(samples_s, 90),
        p99_ms=percentile_ms(samples_s, 99),
        images_per_s=cell_images_per_s(cell),
        steady=cell.steady,
    )


def latency_cell(cells: Sequence[TimingCell]) -> TimingCell:
    """The cell that an engine's latency is read from: encoded image to label, smallest batch, fewest streams.

    Of several numbers of threads the one with the smallest mean.
    """
    whole = [cell for cell in cells if cell.scope == "bytes_to_label" and any(cell.rounds_s)]
    return min(whole, key=lambda cell: (cell.batch, cell.streams, timing_from_cell(cell).mean_ms))


def best_cell(cells: Sequence[TimingCell]) -> TimingCell:
    """The cell with the most images per second, encoded image to label."""
    whole = [cell for cell in cells if cell.scope == "bytes_to_label" and any(cell.rounds_s)]
    return max(whole, key=cell_images_per_s)


def server_result(run: ServerRun | None, asked: Server | None) -> ServerResult | None:
    """The highest rate held: it and every lower one that was tried stayed within the bound.

    A rate that holds above one that did not does not count: it was luck.
    """
    if run is None or asked is None:
        return None
    held, why = None, "no rate was tried"
    for trial in sorted(run.trials, key=lambda trial: trial.rate_per_s):
        problem = _broken(trial, asked)
        if problem:
            why = f"{rate(trial.rate_per_s)} per second: {problem}"
            break
        held, why = trial.rate_per_s, "the highest rate that was tried"
    return ServerResult(
        latency_bound_ms=asked.latency_bound_ms, percentile=asked.percentile, rate_per_s=held, why=why
    )


def _broken(trial: ServerTrial, asked: Server) -> str | None:
    """Why a rate was not held; None where it was."""
    if trial.dropped:
        return f"{trial.dropped} arrivals were not answered in time"
    latency_ms = percentile_ms(trial.samples_s, asked.percentile) if trial.samples_s else None
    if latency_ms is None:
        return f"{len(trial.samples_s)} samples are too few for p{asked.percentile}"
    if latency_ms > asked.latency_bound_ms:
        return f"p{asked.percentile} was {ms(latency_ms)} ms, over {asked.latency_bound_ms:g} ms"
    return None
