"""What README.md and docs/*.md show of committed results: TABLES and FIGURES, by their markers' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.docs_campaign import campaign_figures, campaign_table, kills_table
from benchmarks.docs_cascade import cascade_figures, cascade_table, drift_table
from benchmarks.docs_demo import bulk_figures, parts_table, step_table
from benchmarks.docs_files import json_of, lines_of, text_of
from benchmarks.docs_scale import scale_figures, scale_table
from benchmarks.docs_trials import (
    after_table,
    backbones_table,
    frontier_table,
    selection_table,
    trial_figures,
    unlabelled_table,
    variants_table,
)
from vl2v_deploy.benchmarking.report.files import read_report
from vl2v_deploy.benchmarking.report.grid import Grid
from vl2v_deploy.benchmarking.report.tables import summary_grid
from vl2v_deploy.client.manifest import manifest_from_text
from vl2v_deploy.errors import BenchmarkError

DEMO, PRECISIONS = "quickstart_cpu-2core.json", "precisions_cpu-2core.json"
MANIFEST, INFERENCE = "precisions_manifest.json", "inference_cpu-2core.json"
RUN, LOOP = "quickstart_run.json", "authors_loop_emojidg-cpu_cpu-2core.json"
UNTIL = "time_to_accuracy_emojidg-cpu_cpu-2core.json"
METHODS, BUDGETS = "emojidg_table/table.md", "emojidg_variants/table.md"
PROMPTS = "emojidg_prompts/table.md"
VENDOR = "vendor_client_cpu-2core.json"


def demo_table(results: Path) -> Grid:
    """One row an engine of the demo's report."""
    return summary_grid(read_report(results / DEMO))


def precisions_table(results: Path) -> Grid:
    """Size, speed as a multiple of fp32's, and accuracy of each ONNX file of the demo's bundle."""
    speeds = json_of(results / PRECISIONS)
    manifest = manifest_from_text(text_of(results / MANIFEST), MANIFEST)
    batches = speeds["batches"]
    grid = Grid(("file", "MB", *(f"batch {batch}" for batch in batches), "ID %", "OOD %"))
    for precision, made in manifest.precisions.items():
        if speeds["bundle"]["files"][precision]["sha256"] != manifest.files[made.file].sha256:
            raise BenchmarkError(f"{PRECISIONS}: its {made.file} is not the one of {MANIFEST}: measure again")
        fast = [f"{batches[batch][precision]['times_as_fast_as_fp32']:.2f} x" for batch in batches]
        accuracy = made.accuracy
        shares = (accuracy.id, accuracy.ood) if accuracy else ()
        grid.rows.append(
            (
                f"`{made.file}`",
                f"{made.bytes / 1e6:.1f}",
                *fast,
                *("" if share is None else f"{100 * share:.1f}" for share in shares),
            )
        )
    return grid


def inference_table(results: Path) -> Grid:
    """p50 from JPEG to label, its ratio to the best fp32 peer; a column a model and size of photograph."""
    report = json_of(results / INFERENCE)
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
    """Every method on EmojiDG."""
    return _written_table(results / METHODS)


def budgets_table(results: Path) -> Grid:
    """ADiP with unlabelled images: other numbers of steps, stored views, the image term alone."""
    return _written_table(results / BUDGETS)


def prompts_table(results: Path) -> Grid:
    """The teacher with other prompts, and ADiP with some of them."""
    return _written_table(results / PROMPTS)


def _written_table(file: Path) -> Grid:
    """The Markdown that `vl2v-deploy table` wrote from the committed records."""
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in text_of(file).split("\n")
        if line.startswith("|")
    ]
    return Grid(rows[0], rows[2:])  # rows[1] is the ruler


def authors_loop_table(results: Path) -> Grid:
    """Times, queries and accuracies of the authors' procedure and of ours."""
    from benchmarks.peers.authors_loop import table_rows  # brings in torch

    report = json_of(results / LOOP)
    lines = [column for line in report["ours"] for column in (f"`{line.replace(' ', ': ')}`", "ratio")]
    return Grid(("", "authors' procedure", *lines), [tuple(cells) for cells in table_rows(report)])


def time_to_accuracy_table(results: Path) -> Grid:
    """The authors' procedure and our runs of so many steps: accuracy and what it took."""
    from benchmarks.peers.until_accuracy import table  # brings in torch

    columns, rows = table(json_of(results / UNTIL))
    return Grid(tuple(columns), [tuple(cells) for cells in rows])


TABLES: Mapping[str, Callable[[Path], Grid]] = {
    "demo": demo_table,
    "demo-parts": parts_table,
    "training-step": step_table,
    "precisions": precisions_table,
    "inference": inference_table,
    "methods": methods_table,
    "budgets": budgets_table,
    "prompts": prompts_table,
    "unlabelled": unlabelled_table,
    "variants": variants_table,
    "selection": selection_table,
    "after-training": after_table,
    "authors-loop": authors_loop_table,
    "time-to-accuracy": time_to_accuracy_table,
    "drift": drift_table,
    "cascade": cascade_table,
    "backbones": backbones_table,
    "frontier": frontier_table,
    "campaign": campaign_table,
    "kills": kills_table,
    "scale": scale_table,
}


def demo_figures(results: Path) -> dict[str, str]:
    """Speed and OOD accuracy of the demo's student beside its teacher and the linear probe."""
    report, run = read_report(results / DEMO), json_of(results / RUN)
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
    models = json_of(results / INFERENCE)["models"].values()
    found = {}
    for kind, model in zip(("cnn", "vit"), models, strict=True):
        size = model["sizes"]["640x480"]
        found[f"inference.{kind}"] = f"{size['goal']['reached']:.2f}"
        for precision, share in zip(("fp32", "int8"), size["ours_over_floor"].values(), strict=True):
            found[f"inference.{kind}_{precision}_client_percent"] = f"{100 * (share - 1):.1f}"
    return found


def client_figures(results: Path) -> dict[str, str]:
    """Import time, decoding of large JPEGs, soak test."""
    added_ms = json_of(results / "client_import_cpu-2core.json")["client_adds_ms"]
    drawings = json_of(results / "jpeg_draft_cpu-2core.json")["sizes_px"]
    soak = json_of(results / "soak_cpu-2core.json")
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
    one_cpu = json_of(results / "container_threads_cpu-2core.json")["quota_cpus"]["1"]
    return {
        "threads.quota_1_default_p95_ms": f"{one_cpu['our default']['p95_ms']:.0f}",
        "threads.quota_1_cores_p95_ms": f"{one_cpu['one a physical core']['p95_ms']:.0f}",
    }


def avx2_figures(results: Path) -> dict[str, str]:
    """Speed of int8 as a multiple of fp32's in onnxruntime on a processor without VNNI."""
    batches = json_of(results / "precisions_cpu-2core_avx2.json")["batches"]
    return {
        f"avx2.int8_batch_{batch}": f"{times['int8']['times_as_fast_as_fp32']:.1f}"
        for batch, times in batches.items()
    }


def method_figures(results: Path) -> dict[str, str]:
    """Average OOD accuracy of each method on EmojiDG, and differences between them.

    A method that was trained on images without labels too has `+unlabelled` behind its name.
    """
    by_target: dict[str, dict[str, list[float]]] = {}
    for record in lines_of(results / "emojidg_table/runs.jsonl"):
        accuracy = record["accuracy"]
        kind = "teacher" if record["method"] == "zero_shot" else "student"
        name = record["method"] + ("+unlabelled" if record["data"].get("unlabelled") else "")
        of_target = by_target.setdefault(name, {}).setdefault(accuracy["target"], [])
        of_target.append(accuracy[kind][accuracy["target"]])
    mean = {name: 100 * fmean(map(fmean, targets.values())) for name, targets in by_target.items()}
    found = {f"methods.{method}": f"{share:.1f}" for method, share in mean.items()}
    best = "adip+unlabelled"
    for more, less in (
        *(("zero_shot", "erm"), ("zero_shot", best), ("adip", "erm"), ("adip", "kd"), ("adip", "rise")),
        *(
            (best, "erm"),
            (best, "adip"),
            (best, "kd+unlabelled"),
            ("kd+unlabelled", "kd"),
            ("image_only", "adip"),
        ),
    ):
        found[f"methods.{more}-{less}"] = f"{mean[more] - mean[less]:.1f}"
    return found


def loop_figures(results: Path) -> dict[str, str]:
    """How much faster our training is than the authors' procedure."""
    report = json_of(results / LOOP)
    first, *_, last = report["ratios"].values()
    ours = next(iter(report["ours"].values()))
    once = sum(ours["seconds"].get(part, 0.0) for part in ("teacher", "features", "evaluate"))
    return {
        "loop.total": f"{first['total']:.1f}",
        "loop.total_views": f"{last['total']:.1f}",
        "loop.paid_once_percent": f"{100 * once / ours['total_s']:.0f}",
    }


def until_figures(results: Path) -> dict[str, str]:
    """How soon ours is as good out of domain as the authors' procedure at its end."""
    found = json_of(results / UNTIL)["summary"]
    if found["reached"] is None:
        raise BenchmarkError(f"{UNTIL}: the authors' accuracy is not reached: the documents say that it is")
    steps, authors = str(found["reached"]), found["authors"]
    times = found["times_as_fast"][steps]
    longest = max(found["ours"], key=int)
    return {
        "until.steps": steps,
        "until.ood": f"{100 * found['ours'][steps]['ood']:.1f}",
        "until.ood_authors": f"{100 * authors['ood']:.1f}",
        "until.processors": f"{times['processor_s']:.1f}",
        "until.clock": f"{times['total_s']:.1f}",
        "until.training": f"{times['training_s']:.1f}",
        "until.longest": longest,
        "until.longest_gain": f"{100 * (found['ours'][longest]['ood'] - authors['ood']):.1f}",
    }


def vendor_figures(results: Path) -> dict[str, str]:
    """What the client of paid APIs reaches of a limit, adds to a bare loop, and pays twice under kills."""
    report = json_of(results / VENDOR)
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
    cascade_figures,
    inference_figures,
    client_figures,
    container_figures,
    avx2_figures,
    method_figures,
    loop_figures,
    until_figures,
    trial_figures,
    vendor_figures,
    campaign_figures,
    scale_figures,
    bulk_figures,
)


def figures(results: Path) -> dict[str, str]:
    """Every figure that a sentence may hold, by name."""
    return {name: value for make in FIGURES for name, value in make(results).items()}
