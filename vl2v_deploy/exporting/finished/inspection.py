"""What a bundle says of itself, for people: `vl2v-deploy inspect`. The numbers are the manifest's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.exporting.tensorrt.passport import outcome


def print_bundle(bundle: Bundle, console: Console) -> None:
    """Student, files with their precision, accuracy by domain, parity, confidence and engines."""
    manifest = bundle.manifest
    student = manifest["student"]
    console.print(
        f"[bold]{bundle.path}[/]: {student['backbone']} ({student['method']}), "
        f"{len(bundle.classes)} classes, {bundle.image_size_px} px, embedding of {bundle.embedding_dim}; "
        f"ONNX opset {student['opset']}"
    )
    console.print(f"classes: {', '.join(bundle.classes)}", soft_wrap=True)
    for table in (_files(manifest), _accuracy(manifest)):
        console.print()
        console.print(table)
    console.print()
    for line in (*_relabelled(manifest), *_how_made(manifest), *_confidence(manifest), *_engines(manifest)):
        console.print(line, soft_wrap=True, highlight=False)


def _table(title: str, first: str, *columns: str) -> Table:
    style = {"title_justify": "left", "title_style": "bold", "box": None, "padding": (0, 1, 0, 0)}
    table = Table(title=title, **style)  # type: ignore[arg-type]
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _files(manifest: Mapping[str, Any]) -> Table:
    table = _table(
        "Files: MACs by type; same labels, largest logit error, least cosine to torch",
        "file",
        *("MB", "MACs", "fp32", "fp16", "int8", "labels", "logits", "cosine"),
    )
    for record in manifest["precisions"].values():
        macs, parity = record["macs"], record["parity"]
        shares = [f"{round(100 * macs['share'][kind], 1):g}%" for kind in ("fp32", "fp16", "int8")]
        table.add_row(
            record["file"],
            f"{record['bytes'] / 1e6:.1f}",
            f"{macs['total'] / 1e6:.0f} M",
            *shares,
            f"{100 * parity['agreement']:.1f}%",
            f"{parity['max_logit_error']:.1e}",
            f"{parity['min_cosine']:.4f}",
        )
    return table


def _accuracy(manifest: Mapping[str, Any]) -> Table | str:
    records = {name: record["accuracy"] for name, record in manifest["precisions"].items()}
    measured = {name: accuracy for name, accuracy in records.items() if accuracy is not None}
    if not measured:
        return "Accuracy: not known for these classes"
    table = _table("Accuracy through each file, %", "images", "n", *measured)
    first = next(iter(measured.values()))
    table.add_row(
        "source validation (chosen on)",
        str(first["source_validation"]["images"]),
        *(f"{100 * accuracy['source_validation']['accuracy']:.1f}" for accuracy in measured.values()),
    )
    for domain, facts in first["domains"].items():
        kind = "target, OOD" if facts["role"] == "target" else "ID"
        kind += ", chosen on" * facts["chosen_on"]
        of = "" if facts["images"] == facts["of"] else f" of {facts['of']}"
        table.add_row(
            f"{domain} ({kind})",
            f"{facts['images']}{of}",
            *(f"{100 * accuracy['domains'][domain]['accuracy']:.1f}" for accuracy in measured.values()),
        )
    return table


def _relabelled(manifest: Mapping[str, Any]) -> list[str]:
    if not (relabelled := manifest.get("relabelled")):
        return []
    before = ", ".join(relabelled["from"]["classes"])
    return [f"relabelled: was distilled for {before}; {relabelled['note']}"]


def _how_made(manifest: Mapping[str, Any]) -> list[str]:
    lines = []
    for precision, record in manifest["precisions"].items():
        if kept := record.get("kept_in_fp32"):
            told = ", ".join(f"{len(nodes)} {reason}" for reason, nodes in kept.items())
            error = record["emulated_parity"]["max_logit_error"]
            lines.append(
                f"{precision}: operations in fp32: {told}; with every fp16 result rounded as on a GPU, "
                f"logits are off by at most {error:.1e}"
            )
        if calibration := record.get("calibration"):
            tried = ", ".join(
                f"{method} {100 * trial['accuracy']:.1f}" for method, trial in calibration["tried"].items()
            )
            budget, layers = record["budget"], record["layers_in_fp32"]
            rule = f"{record['weights']['rule']} weights; " if "weights" in record else ""
            lines.append(
                f"{precision}: calibrated by {calibration['method']} on {calibration['images']} images of "
                f"{calibration['of']} (source validation accuracy {tried}); {rule}{len(layers)} layer(s) "
                f"back in fp32; source validation {100 * budget['accuracy']:.1f} % after "
                f"{100 * budget['fp32_accuracy']:.1f} in fp32 (allowed to lose "
                f"{budget['max_accuracy_drop']:g})"
            )
    return lines


def _confidence(manifest: Mapping[str, Any]) -> list[str]:
    confidence = manifest["confidence"]
    lines = [
        f"confidence: temperature {confidence['temperature']:.3g}, fitted on {confidence['images']} images "
        f"of source validation: calibration error {100 * confidence['ece_before']:.1f} -> "
        f"{100 * confidence['ece_after']:.1f} %"
    ]
    if confidence["abstain_below"] is not None:
        lines.append(
            f"abstains below {confidence['abstain_below']:.3f}: {100 * confidence['coverage']:.0f} % of "
            f"source validation is answered, {100 * confidence['accuracy_of_answered']:.1f} % of that rightly"
        )
    told = confidence["note"] and not manifest.get("relabelled")  # which says the same
    return [*lines, *([f"note: {confidence['note']}"] if told else [])]


def _engines(manifest: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {_engine(passport)}" for name, passport in manifest["engines"].items()]


def _engine(passport: Mapping[str, Any]) -> str:
    profile = passport["profile"]
    return (
        f"{passport['flavour']} {passport['version']}, {passport['precision']}, compute capability "
        f"{', '.join(passport['compute_capabilities'])}, batch "
        f"{profile['min']}:{profile['opt']}:{profile['max']}, built in "
        f"{passport['build_seconds']:.1f} s; {outcome(passport)}"
    )
