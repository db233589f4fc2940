"""`vl2v-deploy inspect`: the manifest, as tables and sentences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.client.onnx_file import DomainAccuracy, OnnxFile
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.exporting.graph.macs import uncounted
from vl2v_deploy.exporting.model_card import CARD
from vl2v_deploy.exporting.tensorrt.passport import outcome
from vl2v_deploy.names import shown


def print_bundle(bundle: Bundle, console: Console) -> None:
    """Student, files with their precision, accuracy by domain, parity, confidence and engines."""
    manifest = bundle.manifest
    student = manifest.student
    console.print(
        Text.assemble(
            (shown(bundle.source), "bold"),
            f": {shown(student.backbone)} ({shown(student.method)}), {len(bundle.classes)} classes, "
            f"{bundle.image_size_px} px, embedding of {bundle.embedding_dim}; ONNX opset {student.opset}",
        )
    )
    console.print(Text(f"classes: {', '.join(map(shown, bundle.classes))}"), soft_wrap=True)
    for table in (_files(manifest), _accuracy(manifest)):
        console.print()
        console.print(table)
    console.print()
    lines = [f"model card: {shown(CARD)}"] if CARD in manifest.files else []
    lines += _relabelled(manifest)
    for precision, made in manifest.precisions.items():
        lines += [f"{precision}: MACs not counted: {line}" for line in uncounted(made.macs)]
        lines += [f"{precision}: {how}" for how in _how_made(made)]
    lines += [f"no {precision}: {why}" for precision, why in (manifest.refused or {}).items()]
    lines += [*_confidence(manifest), *(f"{name}: {_engine(p)}" for name, p in manifest.engines.items())]
    for line in lines:
        console.print(Text(shown(line)), soft_wrap=True)


def _table(title: str, first: str, *columns: str) -> Table:
    style = {"title_justify": "left", "title_style": "bold", "box": None, "padding": (0, 1, 0, 0)}
    table = Table(title=title, **style)  # type: ignore[arg-type]
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(Text(shown(column)), justify="right")
    return table


def _files(manifest: Manifest) -> Table:
    table = _table(
        "Files: MACs by type; same labels, largest logit error, least cosine to torch",
        "file",
        *("MB", "MACs", "fp32", "fp16", "int8", "labels", "logits", "cosine"),
    )
    for made in manifest.precisions.values():
        macs, parity = made.macs, made.parity
        table.add_row(
            Text(shown(made.file)),
            f"{made.bytes / 1e6:.1f}",
            f"{'' if macs.uncounted is None else 'over '}{macs.total / 1e6:.0f} M",
            *(f"{round(100 * macs.share[kind], 1):g}%" for kind in ("fp32", "fp16", "int8")),
            f"{100 * parity.agreement:.1f}%",
            f"{parity.max_logit_error:.1e}",
            f"{parity.min_cosine:.4f}",
        )
    return table


def _accuracy(manifest: Manifest) -> Table | str:
    measured = {name: made.accuracy for name, made in manifest.precisions.items() if made.accuracy}
    if not measured:
        return "Accuracy: not known for these classes"
    table = _table("Accuracy through each file, %", "images", "n", *measured)
    first = next(iter(measured.values()))
    target = (manifest.run.target_words if manifest.run else TargetWords()).role
    table.add_row(
        "source validation (chosen on)",
        str(first.source_validation.images),
        *(f"{100 * accuracy.source_validation.accuracy:.1f}" for accuracy in measured.values()),
    )
    for domain, facts in first.domains.items():
        of = "" if facts.images == facts.of else f" of {facts.of}"
        table.add_row(
            Text(shown(f"{domain} ({_kind(facts, target)})")),
            f"{facts.images}{of}",
            *(f"{100 * accuracy.domains[domain].accuracy:.1f}" for accuracy in measured.values()),
        )
    return table


def _kind(facts: DomainAccuracy, target: str) -> str:
    kind = target if facts.role == "target" else "ID"
    return f"{kind}, chosen on" if facts.chosen_on else kind


def _relabelled(manifest: Manifest) -> list[str]:
    if not (relabelled := manifest.relabelled):
        return []
    return [f"relabelled: was distilled for {', '.join(relabelled.before.classes)}; {relabelled.note}"]


def _how_made(made: OnnxFile) -> list[str]:
    lines = []
    if fp16 := made.fp16:
        kept = ", ".join(f"{len(nodes)} {reason}" for reason, nodes in fp16.kept_in_fp32.items())
        lines.append(
            f"operations in fp32: {kept}; with every fp16 result rounded as on a GPU, logits are off by at "
            f"most {fp16.emulated_parity.max_logit_error:.1e}"
        )
    if int8 := made.int8:
        calibration, budget = int8.calibration, int8.budget
        rule = f"{made.weights.rule} weights; " if made.weights else ""
        tried = ", ".join(
            f"{method} {100 * trial.accuracy:.1f}" for method, trial in calibration.tried.items()
        )
        lines.append(
            f"calibrated by {calibration.method} on {calibration.images} images of {calibration.of} (source "
            f"validation accuracy {tried}); {rule}{len(int8.layers_in_fp32)} layer(s) back in fp32; source "
            f"validation {100 * budget.accuracy:.1f} % after {100 * budget.fp32_accuracy:.1f} in fp32 "
            f"(allowed to lose {budget.max_accuracy_drop:g})"
        )
    return lines


def _confidence(manifest: Manifest) -> list[str]:
    confidence = manifest.confidence
    line = f"confidence: temperature {confidence.temperature:.3g}"
    if confidence.ece_before is not None and confidence.ece_after is not None:
        line += (
            f", fitted on {confidence.images} images of source validation: calibration error "
            f"{100 * confidence.ece_before:.1f} -> {100 * confidence.ece_after:.1f} %"
        )
    lines = [line]
    coverage, right = confidence.coverage, confidence.accuracy_of_answered
    if confidence.abstain_below is not None and coverage is not None and right is not None:
        lines.append(
            f"abstains below {confidence.abstain_below:.3f}: {100 * coverage:.0f} % of source validation is "
            f"answered, {100 * right:.1f} % of that correctly"
        )
    if confidence.note and not manifest.relabelled:  # a relabelled bundle has the same note there
        lines.append(f"note: {confidence.note}")
    return lines


def _engine(passport: Passport) -> str:
    built_in = "" if passport.build_seconds is None else f", built in {passport.build_seconds:.1f} s"
    return (
        f"{passport.flavour} {passport.version}, {passport.precision}, compute capability "
        f"{', '.join(passport.compute_capabilities)}, batch {passport.profile}{built_in}; {outcome(passport)}"
    )
