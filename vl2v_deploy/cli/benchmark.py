"""Commands that measure a bundle and write the report, and hold two reports side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.cli.options import ANY_PATH, BUNDLES, SKIP_BAD, USD_PER_1K_QUERIES
from vl2v_deploy.errors import BenchmarkError, VL2VError

if TYPE_CHECKING:
    from vl2v_deploy.benchmarking.schema import CascadeTerms

REGRESSION, UNUSABLE = 1, 2  # exit codes of compare
PRICES = (
    "usd_per_hour",
    "teacher_usd_per_hour",
    "usd_per_1k_queries",
    "utilisation",
    "distillation_usd",
    "distillation_hours",
)


def numbers_from_text(option: str, text: str) -> list[int]:
    """Whole numbers written with commas; BenchmarkError, which names the option, unless they are.

    >>> numbers_from_text("--batch", "1,8")
    [1, 8]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BenchmarkError(f"{option}: expected whole numbers such as 1,8,32, got {text!r}") from error


@click.command()
@click.argument("bundle", type=ANY_PATH, required=False)
@click.option("--scenario", "scenario_file", type=ANY_PATH, help="YAML file; the options below override it.")
@click.option("--teacher", is_flag=True, default=None, help="Measure the teacher beside the student.")
@click.option(
    "--engines", metavar="NAMES", help="runtime:precision[@provider],... or files, all.  [default: files]"
)
@click.option("--batch", "batches", metavar="N,...", help="Batch sizes.  [default: 1,8,32]")
@click.option("--threads", metavar="N,...", help="Threads of every engine.  [default: usable cores]")
@click.option("--streams", metavar="N,...", help="Calls in flight at once, for throughput.  [default: 1]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where engines compute.  [default: cpu]")
@click.option("--seconds", type=float, help="Duration of the timing.  [default: 20]")
@click.option("--timeout", "timeout_s", type=float, help="Seconds until silence is a stall.  [default: 120]")
@click.option("--max-images", type=int, help="Most images per domain for accuracy.  [default: all]")
@click.option("--usd-per-hour", type=float, metavar="USD", help="Price of this machine.")
@click.option("--teacher-usd-per-hour", type=float, metavar="USD", help="Price of the teacher's machine.")
@USD_PER_1K_QUERIES
@click.option(
    "--prices", "price_file", type=ANY_PATH, help="Dated price file; the other options override it."
)
@click.option("--machine", metavar="NAME", help="This machine in the price file.")
@click.option("--teacher-machine", metavar="NAME", help="The machine there that would host the teacher.")
@click.option("--utilisation", type=float, help="Busy share of the paid time, in (0, 1].  [default: 1]")
@click.option("--distillation-usd", type=float, metavar="USD", help="Total cost of the distillation.")
@click.option("--distillation-hours", type=float, metavar="H", help="Machine hours of the distillation.")
@click.option(
    "--max-usd-per-million", type=float, metavar="USD", help="Budget of the cascade: sets its threshold."
)
@click.option(
    "--min-ood-accuracy", type=float, metavar="SHARE", help="Which threshold would reach it, in (0, 1]."
)
@click.option("--api-latency-ms", metavar="P50[,P99]", help="Latency of the teacher's API, for the cascade.")
@click.option(
    "--buy-validation",
    is_flag=True,
    default=None,
    help="Send a paid teacher the validation images of the cascade.",
)
@click.option("--run", type=ANY_PATH, help="Run directory, for torch.  [default: searched for under runs/]")
@click.option("--data", type=ANY_PATH, help="Where the images are now.  [default: as in the recipe]")
@click.option("--out", type=ANY_PATH, help="Report directory.  [default: reports/<bundle name>]")
@SKIP_BAD
def benchmark(
    bundle: Path | None,
    scenario_file: Path | None,
    run: Path | None,
    data: Path | None,
    out: Path | None,
    skip_bad: bool,
    **options: Any,
) -> None:
    """Measure what the student in BUNDLE (default: newest in bundles/) loses in accuracy and saves in cost.

    BUNDLE is a directory or a zip file. Engines are called runtime:precision, such as onnxruntime:int8,
    openvino:fp32 or torch:fp32; @cuda or @tensorrt says where onnxruntime computes. 'files' is every ONNX
    file of the bundle in onnxruntime; 'all' is whatever this machine can run, and the report lists the others
    with the reason. An engine that fails is reported as failed; the exit code is then 1 if it was asked for
    by name, or if all failed.

    With --teacher the report has a cascade too: the teacher is asked where the student is unsure. Its policy,
    chosen on source validation, is cascade.json beside the report; vl2v_deploy.client.cascade follows it.

    \b
    vl2v-deploy benchmark --teacher --usd-per-hour 1.0
    vl2v-deploy benchmark bundles/quickstart --teacher --usd-per-1k-queries 0.1 --usd-per-hour 1.0
    vl2v-deploy benchmark bundles/q --engines all --teacher --scenario benchmarks/scenarios/cpu_quick.yaml
    vl2v-deploy benchmark bundles/q --engines onnxruntime:int8,openvino:int8 --threads 1,2 --batch 1,16
    vl2v-deploy benchmark bundles/q --prices prices.yaml --machine small-cpu --utilisation 0.3
    vl2v-deploy benchmark --teacher --usd-per-hour 1 --usd-per-1k-queries 0.1 --max-usd-per-million 30
    """
    from vl2v_deploy.benchmarking.judge.prices import prices_of
    from vl2v_deploy.benchmarking.scenario import load_scenario
    from vl2v_deploy.client.bundle import newest_bundle
    from vl2v_deploy.terminal import new_console

    given = {name: options[name] for name in PRICES if options[name] is not None}
    prices = prices_of(given, options["price_file"], options["machine"], options["teacher_machine"])
    scenario = load_scenario(scenario_file, _overrides(options))
    terms = _terms(options)
    source = bundle or newest_bundle(BUNDLES)
    # Imported once files and options are known to be valid: these bring in torch.
    from vl2v_deploy import api
    from vl2v_deploy.benchmarking.report.render import print_report
    from vl2v_deploy.benchmarking.run import failures
    from vl2v_deploy.models.ledger.booking import billed_to

    with billed_to(source.resolve().name):
        result = api.benchmark(
            source,
            out,
            scenario=scenario,
            prices=prices,
            terms=terms,
            run=run,
            data=data,
            skip_bad=skip_bad,
        )
    print_report(result.report, new_console())
    click.echo(f"Report: {result.path}")
    if result.cascade is not None:
        click.echo(f"Cascade: {result.cascade}")
    if failed := failures(result.report.measurements):
        raise BenchmarkError("\n".join(failed))


@click.command()
@click.argument("before", type=ANY_PATH)
@click.argument("after", type=ANY_PATH)
@click.option(
    "--noise",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="How far times may differ between two runs by chance.",
)
@click.option("--json", "as_json", is_flag=True, help="Rows, versions and verdict as JSON.")
def compare(before: Path, after: Path, noise: float, as_json: bool) -> None:
    """What changed from the report BEFORE to the report AFTER, beyond the noise; for CI.

    Both are report.json files, or directories that hold one, of the same scenario, images and device.
    Accuracy is compared image by image; a time has changed if its whole interval is outside the noise band.

    Exit code 0: no regression. 1: a regression. 2: the two cannot be compared, or the call is wrong.

    \b
    vl2v-deploy compare reports/main reports/branch
    vl2v-deploy compare reports/main/report.json reports/branch/report.json --noise 10 --json
    """
    from vl2v_deploy.benchmarking.judge.compare import compare_reports
    from vl2v_deploy.benchmarking.report.files import read_report
    from vl2v_deploy.benchmarking.report.render import print_comparison
    from vl2v_deploy.terminal import new_console

    try:
        comparison = compare_reports(read_report(before), read_report(after), noise / 100)
    except VL2VError as error:
        # Not 1: a CI job must be able to tell a regression from reports that cannot be compared.
        click.echo(f"Error: {error}", err=True)
        sys.exit(UNUSABLE)
    if as_json:
        click.echo(comparison.model_dump_json(indent=1))
    else:
        print_comparison(comparison, new_console())
    if comparison.regression:
        sys.exit(REGRESSION)


def _overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The scenario's fields that the command line gives."""
    fields = ("teacher", "device", "seconds", "timeout_s", "max_images", "buy_validation")
    given = {name: options[name] for name in fields if options[name] is not None}
    if options["engines"] is not None:
        given["engines"] = options["engines"].split(",")
    for field, option in (("batches", "--batch"), ("threads", "--threads"), ("streams", "--streams")):
        if options[field] is not None:
            given[field] = numbers_from_text(option, options[field])
    return given


def _terms(options: dict[str, Any]) -> CascadeTerms:
    """What the command line asks of the cascade."""
    from vl2v_deploy.benchmarking.scenario import validated
    from vl2v_deploy.benchmarking.schema import CascadeTerms

    given = {name: options[name] for name in ("max_usd_per_million", "min_ood_accuracy")}
    if options["api_latency_ms"] is not None:
        times = latencies_from_text("--api-latency-ms", options["api_latency_ms"])
        given |= dict(zip(("teacher_p50_ms", "teacher_p99_ms"), times, strict=False))
    return validated(CascadeTerms, given, source="cascade")


def latencies_from_text(option: str, text: str) -> list[float]:
    """p50 and, where it is given, p99 in milliseconds; else BenchmarkError, which names the option.

    >>> latencies_from_text("--api-latency-ms", "180,900")
    [180.0, 900.0]
    """
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        times = []
    if not 1 <= len(times) <= 2:
        raise BenchmarkError(f"{option}: expected P50 or P50,P99 such as 180,900, got {text!r}")
    return times


benchmark_commands = (benchmark, compare)
