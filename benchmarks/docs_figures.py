"""Tables and figures of README.md and docs/*.md, made from committed results: none is typed by hand.

    python benchmarks/docs_figures.py            writes them between their markers
    python benchmarks/docs_figures.py --check    fails where a document and the results differ

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`, each alone on its line. A figure inside a
sentence stands between `<!--f:NAME-->` and `<!--/f-->`. The names are the keys of TABLES and FIGURES.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.docs_trials import (
    after_table,
    backbones_table,
    selection_table,
    trial_figures,
    unlabelled_table,
    variants_table,
)
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.benchmarking.report.tables import Grid, summary_grid
from vl2v_deploy.client.manifest import manifest_from_text
from vl2v_deploy.errors import BenchmarkError, VL2VError, did_you_mean

ROOT = Path(__file__).resolve().parents[1]
DEMO, PRECISIONS = "quickstart_cpu-2core.json", "precisions_cpu-2core.json"
MANIFEST, INFERENCE = "quickstart_manifest.json", "inference_cpu-2core.json"
RUN, LOOP = "quickstart_run.json", "authors_loop_emojidg-cpu_cpu-2core.json"
METHODS = "emojidg_table/table.md"
VENDOR = "vendor_client_cpu-2core.json"
OPEN = re.compile(r"^<!-- table: (?P<name>\S+) -->$")
CLOSE = "<!-- /table -->"
FIGURE = re.compile(r"<!--f:(?P<name>[^>]*?)-->(?P<value>.*?)<!--/f-->")


def demo_table(results: Path) -> Grid:
    """One row an engine of the demo's report."""
    return summary_grid(read_report(results / DEMO))


def precisions_table(results: Path) -> Grid:
    """Size, speed as a multiple of fp32's, and accuracy of each ONNX file of the demo's bundle."""
    speeds = _read(results / PRECISIONS)
    manifest = manifest_from_text(_text(results / MANIFEST), MANIFEST)
    batches = speeds["batches"]
    grid = Grid(("file", "MB", *(f"batch {batch}" for batch in batches), "ID %", "OOD %"))
    for precision, made in manifest.precisions.items():
        if speeds["bundle"]["files"][precision]["sha256"] != manifest.files[made.file].sha256:
            raise BenchmarkError(f"{PRECISIONS}: its {made.file} is not the one of {MANIFEST}: measure again")
        fast = [f"{batches[batch][precision]['times_as_fast_as_fp32']:.2f} x" for batch in batches]
        accuracy = made.accuracy
        shares = (accuracy.id, accuracy.ood) if accuracy else ()
        grid.rows.append(
            (f"`{made.file}`", f"{made.bytes / 1e6:.1f}", *fast, *(f"{100 * share:.1f}" for share in shares))
        )
    return grid


def inference_table(results: Path) -> Grid:
    """p50 from JPEG to label, its ratio to the best fp32 peer; a column a model and size of photograph."""
    report = _read(results / INFERENCE)
    columns = {
        f"{name}, {size}": result
        for name, model in report["models"].items()
        for size, result in model["sizes"].items()
    }
    grid = Grid(("JPEG to label, p50 (to the best fp32 peer)", *columns))
    engines = next(iter(columns.values()))["engines"]
    for engine in engines:
        cells = []
        for result in columns.values():
            p50_ms = result["engines"][engine]["p50_ms"]
            ratio = result["ratio_to_best_fp32_peer"].get(engine)
            cells.append("failed" if p50_ms is None or ratio is None else f"{p50_ms:.2f} ms ({ratio:.2f})")
        grid.rows.append((engine, *cells))
    return grid


def methods_table(results: Path) -> Grid:
    """Every method on EmojiDG: the Markdown that `vl2v-deploy table` wrote from the committed records."""
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in _text(results / METHODS).split("\n")
        if line.startswith("|")
    ]
    return Grid(rows[0], rows[2:])  # rows[1] is the ruler


def authors_loop_table(results: Path) -> Grid:
    """Times, queries and accuracies of the authors' procedure and of ours."""
    from benchmarks.peers.authors_loop import table_rows  # brings in torch

    report = _read(results / LOOP)
    lines = [column for line in report["ours"] for column in (f"`{line.replace(' ', ': ')}`", "ratio")]
    return Grid(("", "authors' procedure", *lines), [tuple(cells) for cells in table_rows(report)])


def drift_table(results: Path) -> Grid:
    """How often, and after how many images, a Monitor alarms: one row a bundle of benchmarks/drift.py."""
    grid = Grid(
        ("student", "source %", "unseen %", "alarms on unseen %", "median image", "on sources %", "fresh %")
    )
    for path in sorted((results / "drift").glob("*.json")):
        for name, facts in _read(path)["bundles"].items():
            rows = {row: found["by_alpha"]["0.01"] for row, found in facts["rows"].items()}
            median = rows["unseen style"]["images_until_alarm"]["p50"]
            shares = [facts["source_accuracy"], facts["unseen_accuracy"], rows["unseen style"]["alarms"]]
            false = [rows[row]["alarms"] for row in ("source styles", "fresh reference")]
            cells = [f"{100 * share:.1f}" for share in (*shares, *false)]
            grid.rows.append((name, *cells[:3], "-" if median is None else str(median), *cells[3:]))
    return grid


TABLES: Mapping[str, Callable[[Path], Grid]] = {
    "demo": demo_table,
    "precisions": precisions_table,
    "inference": inference_table,
    "methods": methods_table,
    "unlabelled": unlabelled_table,
    "variants": variants_table,
    "selection": selection_table,
    "after-training": after_table,
    "authors-loop": authors_loop_table,
    "drift": drift_table,
    "backbones": backbones_table,
}


def demo_figures(results: Path) -> dict[str, str]:
    """Speed and OOD accuracy of the demo's student beside its teacher and the linear probe."""
    report, run = read_report(results / DEMO), _read(results / RUN)
    if report.measurements.recipe_sha256 != run["recipe_sha256"]:
        raise BenchmarkError(f"{RUN}: is not the run of {DEMO}: measure again")
    engines, primary = report.results.engines, str(report.results.primary)
    target, teacher = run["accuracy"]["target"], engines["teacher"]

    def times_as_fast(name: str) -> str:
        return f"{engines[name].best.images_per_s / teacher.best.images_per_s:.1f}"

    def ood(name: str) -> str:
        return f"{100 * engines[name].domains[target].accuracy:.1f}"

    cascade = report.results.cascade
    if cascade is None:
        raise BenchmarkError(f"{DEMO}: has no cascade: measure again")
    asked = cascade.chosen.domains[target]
    if asked.usd_per_million is None or cascade.teacher_usd_per_million is None:
        raise BenchmarkError(f"{DEMO}: has no prices: measure again with them")
    return {
        "demo.cascade_share": f"{100 * asked.share:.0f}",
        "demo.cascade_ood": f"{100 * asked.accuracy:.1f}",
        "demo.cascade_usd": f"{asked.usd_per_million:.0f}",
        "demo.teacher_usd": f"{cascade.teacher_usd_per_million:.0f}",
        "demo.engine": f"`{primary}`",
        "demo.times_as_fast": times_as_fast(primary),
        "demo.times_as_fast_in_onnxruntime": times_as_fast("onnxruntime:int8"),
        "demo.ood": ood(primary),
        "demo.ood_teacher": ood("teacher"),
        "demo.ood_linear_probe": f"{100 * run['accuracy']['linear_probe'][target]:.1f}",
        "demo.target": f"`{target}`",
    }


def inference_figures(results: Path) -> dict[str, str]:
    """How our int8 bundle compares with timm's model in other runtimes, and what our client adds."""
    models = _read(results / INFERENCE)["models"].values()
    found = {}
    for kind, model in zip(("cnn", "vit"), models, strict=True):
        size = model["sizes"]["640x480"]
        found[f"inference.{kind}"] = f"{size['goal']['reached']:.2f}"
        for precision, share in zip(("fp32", "int8"), size["ours_over_floor"].values(), strict=True):
            found[f"inference.{kind}_{precision}_client_percent"] = f"{100 * (share - 1):.1f}"
    return found


def client_figures(results: Path) -> dict[str, str]:
    """Import time, decoding of large JPEGs, soak test."""
    added_ms = _read(results / "client_import_cpu-2core.json")["client_adds_ms"]
    drawings = _read(results / "jpeg_draft_cpu-2core.json")["sizes_px"]
    soak = _read(results / "soak_cpu-2core.json")
    memory = [soak["memory"][part] / 1e6 for part in ("middle_bytes", "last_bytes")]
    if soak["wrong"]:
        raise BenchmarkError(f"soak: wrong answers: {soak['wrong']}")
    found = {
        "client.import_ms": f"{added_ms:.0f}",
        "soak.minutes": f"{soak['seconds'] / 60:g}",
        "soak.threads": str(soak["threads"]),
        "soak.answered": f"{soak['answered']:,}",
        "soak.refused": f"{soak['refused']:,}",
        "soak.memory": "{:.0f} then {:.0f} MB".format(*memory),
    }
    for size_px, size in drawings.items():
        ours, whole = size["decodings"]["2 S"], size["decodings"]["whole"]
        found |= {
            f"jpeg.{size_px}.images": f"{size['images']:,}",
            f"jpeg.{size_px}.accuracy": f"{100 * ours['accuracy']:.2f}",
            f"jpeg.{size_px}.accuracy_whole": f"{100 * whole['accuracy']:.2f}",
            f"jpeg.{size_px}.same_label": f"{100 * ours['same_label_as_whole']:.1f}",
            f"jpeg.{size_px}.times_as_fast": f"{ours['times_as_fast_as_whole']:.1f}",
        }
    return found


def container_figures(results: Path) -> dict[str, str]:
    """Tail latency under a quota of one CPU, with the default threads and with one a physical core."""
    one_cpu = _read(results / "container_threads_cpu-2core.json")["quota_cpus"]["1"]
    return {
        "threads.quota_1_default_p95_ms": f"{one_cpu['our default']['p95_ms']:.0f}",
        "threads.quota_1_cores_p95_ms": f"{one_cpu['one a physical core']['p95_ms']:.0f}",
    }


def avx2_figures(results: Path) -> dict[str, str]:
    """Speed of int8 as a multiple of fp32's in onnxruntime's kernels for processors without VNNI."""
    batches = _read(results / "precisions_cpu-2core_avx2-kernels.json")["batches"]
    return {
        f"avx2.int8_batch_{batch}": f"{times['int8']['times_as_fast_as_fp32']:.1f}"
        for batch, times in batches.items()
    }


def method_figures(results: Path) -> dict[str, str]:
    """Average OOD accuracy of each method on EmojiDG, and differences between them."""
    records = [json.loads(line) for line in _text(results / "emojidg_table/runs.jsonl").splitlines()]
    of_method: dict[str, list[float]] = {}
    for record in records:
        accuracy = record["accuracy"]
        kind = "teacher" if record["method"] == "zero_shot" else "student"
        of_method.setdefault(record["method"], []).append(accuracy[kind][accuracy["target"]])
    mean = {method: 100 * sum(shares) / len(shares) for method, shares in of_method.items()}
    found = {f"methods.{method}": f"{share:.1f}" for method, share in mean.items()}
    for more, less in (("zero_shot", "erm"), ("zero_shot", "adip"), ("adip", "erm"), ("adip", "kd")):
        found[f"methods.{more}-{less}"] = f"{mean[more] - mean[less]:.1f}"
    return found


def loop_figures(results: Path) -> dict[str, str]:
    """How much faster our training is than the authors' procedure."""
    report = _read(results / LOOP)
    first, *_, last = report["ratios"].values()
    ours = next(iter(report["ours"].values()))
    once = sum(ours["seconds"].get(part, 0.0) for part in ("teacher", "features", "evaluate"))
    return {
        "loop.total": f"{first['total']:.1f}",
        "loop.total_views": f"{last['total']:.1f}",
        "loop.paid_once_percent": f"{100 * once / ours['total_s']:.0f}",
    }


def vendor_figures(results: Path) -> dict[str, str]:
    """What the client of paid APIs reaches of a limit, adds to a bare loop, and pays twice under kills."""
    report = _read(results / VENDOR)
    rate, kills = report["rate"], report["kills"]
    if kills["held"] != kills["images"] or kills["billed"] > kills["settled"] + kills["unknown"]:
        raise BenchmarkError(f"{VENDOR}: not all is held, or the bill is above the ledger: {kills}")
    if kills["killed"] < 1 or kills["paid_twice"] > kills["unknown"]:
        raise BenchmarkError(f"{VENDOR}: more was paid twice than was in flight at kills: {kills}")
    return {
        "vendor.limit": f"{rate['limit_a_minute']:,}",
        "vendor.rate_percent": f"{100 * rate['reached']:.1f}",
        "vendor.refused": f"{rate['refused']:,}",
        "vendor.overhead": f"{report['overhead']['ratio']:.1f}",
        "vendor.overhead_encoded_before": f"{report['overhead']['ratio_to_encoded_before']:.1f}",
        "vendor.kills": f"{kills['killed']:,}",
        "vendor.kill_images": f"{kills['images']:,}",
        "vendor.kill_held": f"{kills['held']:,}",
        "vendor.kill_unknown": f"{kills['unknown']:,}",
        "vendor.paid_twice": f"{kills['paid_twice']:,}",
    }


FIGURES: Sequence[Callable[[Path], dict[str, str]]] = (
    demo_figures,
    inference_figures,
    client_figures,
    container_figures,
    avx2_figures,
    method_figures,
    loop_figures,
    trial_figures,
    vendor_figures,
)


def figures(results: Path) -> dict[str, str]:
    """Every figure that a sentence may hold, by name."""
    return {name: value for make in FIGURES for name, value in make(results).items()}


def with_figures(text: str, values: Mapping[str, str]) -> tuple[str, int]:
    """The text with each marked figure made anew, and how many it holds.

    Raises BenchmarkError for an unknown name or an unfinished marker.
    """
    if text.count("<!--f:") != len(FIGURE.findall(text)):
        raise BenchmarkError("a figure does not end: <!--/f--> is missing")

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in values:
            raise BenchmarkError(f"no figure {name!r}{did_you_mean(name, values)}")
        return f"<!--f:{name}-->{values[name]}<!--/f-->"

    return FIGURE.subn(made, text)


def with_tables(document: str, results: Path) -> tuple[str, list[str]]:
    """The text with each marked table made anew, and the names of the tables it has.

    results: folder of the committed results

    Raises BenchmarkError for a marker without its other half, an unknown or repeated name, results that are
    missing or of another form.
    """
    lines, made, names = document.split("\n"), list[str](), list[str]()
    inside: str | None = None
    for number, line in enumerate(lines, 1):
        opened = OPEN.match(line)
        if opened and inside:
            raise BenchmarkError(
                f"line {number}: a table begins, but {inside!r} has not ended: {CLOSE} is missing"
            )
        if line == CLOSE and not inside:
            raise BenchmarkError(f"line {number}: {CLOSE} ends no table")
        if opened:
            inside = _known(opened["name"], names, number)
            names.append(inside)
            made += [line, "", *markdown(_made(inside, results)), ""]
        elif line == CLOSE:
            inside = None
        if not inside:
            made.append(line)
    if inside:
        raise BenchmarkError(f"table {inside!r} does not end: {CLOSE} is missing")
    return "\n".join(made), names


def markdown(grid: Grid) -> list[str]:
    """The lines of a table: names to the left, numbers to the right."""
    ruler = ["---" if column in (0, *grid.words) else "---:" for column in range(len(grid.columns))]
    head, *body = (f"| {' | '.join(cells)} |" for cells in (grid.columns, *grid.rows))
    return [head, f"|{'|'.join(ruler)}|", *body]


def first_difference(old: str, new: str) -> str:
    """Where two texts differ first, in a line that shows both."""
    pairs = zip([*old.split("\n"), ""], [*new.split("\n"), ""], strict=False)
    for number, (there, wanted) in enumerate(pairs, 1):
        if there != wanted:
            return f"line {number}: is {there!r}, the results say {wanted!r}"
    return "nowhere"


def _known(name: str, before: Sequence[str], number: int) -> str:
    if name not in TABLES:
        hint = did_you_mean(name, TABLES)
        raise BenchmarkError(f"line {number}: no table {name!r}{hint}; there are: {', '.join(TABLES)}")
    if name in before:
        raise BenchmarkError(f"line {number}: table {name!r} stands there twice")
    return name


def _made(name: str, results: Path) -> Grid:
    try:
        return TABLES[name](results)
    except (KeyError, TypeError, StopIteration) as error:
        raise BenchmarkError(
            f"table {name!r}: its results in {results} are of another form: {error!r}"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(_text(path))
    except ValueError as error:
        raise BenchmarkError(f"{path}: is not JSON: {error}") from error
    return read


@click.command()
@click.argument("documents", nargs=-1, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a document and the results differ.")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results")
def main(documents: tuple[Path, ...], check: bool, results: Path) -> None:
    """Put tables and figures of committed results into DOCUMENTS (default: README.md and docs/*.md).

    \b
    python benchmarks/docs_figures.py --check
    """
    for document in documents or (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text(encoding="utf-8")
        try:
            made, names = with_tables(text, results)
            count = 0
            if "<!--f:" in text:
                made, count = with_figures(made, figures(results))
        except VL2VError as error:
            raise click.ClickException(f"{document}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise click.ClickException(f"{document}: results of another form: {error!r}") from error
        if made != text and check:
            raise click.ClickException(
                f"{document}: {first_difference(text, made)}; run: python benchmarks/docs_figures.py"
            )
        if made != text:
            document.write_text(made, encoding="utf-8")
        tables = ", ".join(names) or "no table"
        done = "up to date" if made == text else "written"
        click.echo(f"{document.name}: {tables}; figures: {count}: {done}")


if __name__ == "__main__":
    main()
