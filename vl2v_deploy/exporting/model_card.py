"""README.md of a bundle: the model card, all of it from the manifest.

Classes, domains and teachers are called what their owners called them: every name is escaped for Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

import yaml

from vl2v_deploy.client.manifest import TRAINED_HEAD, Manifest
from vl2v_deploy.client.onnx_file import DomainAccuracy, OnnxFile, without_ood
from vl2v_deploy.client.run_facts import CopyFacts, RunFacts
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.escapes import markdown_cell, markdown_text
from vl2v_deploy.recipe import METHODS, NO_TARGET

CARD = "README.md"
# As the Hugging Face hub and others read it. The licence is the owner's to set: we know none.
_METADATA = {
    "library_name": "vl2v-deploy",
    "pipeline_tag": "image-classification",
    "tags": ["image-classification", "onnx", "knowledge-distillation", "domain-generalization"],
}


def model_card(manifest: Manifest) -> str:
    """The whole card, Markdown with a head of YAML."""
    head = f"---\n{yaml.safe_dump(_METADATA, sort_keys=False)}---"
    title = f"# {markdown_cell(manifest.student.backbone)}, {len(manifest.classes)} classes"
    sections = {
        "": _what_it_is(manifest),
        "Load": _load(),
        "Classes": [", ".join(map(_inline, manifest.classes))],
        "How it was trained": _training(manifest),
        "Training data": _data(manifest),
        "Accuracy": _accuracy(manifest),
        "Files": _files(manifest),
        "Preprocessing": _preprocessing(manifest),
        "Confidence": _confidence(manifest),
        "Limits and licence": _limits(manifest),
    }
    texts = [f"## {name}\n\n" * bool(name) + "\n".join(lines) for name, lines in sections.items()]
    return "\n\n".join([head, title, *texts]) + "\n"


def _what_it_is(manifest: Manifest) -> list[str]:
    student = manifest.student
    how = "a linear head" if student.classifier == TRAINED_HEAD else "the teacher's text embeddings of them"
    return [
        f"An image classifier of {len(manifest.classes)} classes: a {markdown_cell(student.backbone)} that "
        f"was distilled from a vision-language model by vl2v-deploy and tells classes apart by {how}. It "
        "runs as ONNX without PyTorch; `manifest.json` has all that stands here, and more."
    ]


def _load() -> list[str]:
    return [
        "```python",
        "from vl2v_deploy.client import Student",
        "",
        'with Student.load("path/to/this/folder") as student:',
        '    answer = student.predict("photo.jpg")',
        "    print(answer.label, answer.probability, answer.abstained)",
        "```",
        "",
        "`vl2v-deploy verify path/to/this/folder` checks on your machine that it answers as at export.",
    ]


def _training(manifest: Manifest) -> list[str]:
    method = METHODS.get(manifest.student.method)
    name = method.label if method else manifest.student.method
    paper = f": {method.paper}" if method and method.paper else ""
    lines = [f"- Method: {markdown_cell(name)}{paper}"]
    if manifest.run:
        teacher = manifest.run.teacher
        asked = "" if teacher.images is None else f", asked about {teacher.images} images"
        bought = "" if teacher.queries is None else f"; {teacher.queries} queries were sent for this run"
        lines.append(f"- Teacher: {_inline(teacher.identity)}{asked}{bought}")
        lines.append(
            f"- Seed {manifest.run.seed}; recipe in `recipe.yaml`, SHA-256 {manifest.run.recipe_sha256}"
        )
    if relabelled := manifest.relabelled:
        was = ", ".join(map(_inline, relabelled.before.classes))
        lines.append(
            f"- Relabelled: it was distilled for other classes ({was}), and given these by texts of the "
            f"teacher {_inline(relabelled.teacher)} without training"
        )
    return lines


def _data(manifest: Manifest) -> list[str]:
    run, accuracy = manifest.run, manifest.distilled_accuracy
    if run is None or run.data.images is None:
        return ["Not known."]
    target = accuracy.target if accuracy else None
    role = run.target_role.removesuffix(", OOD")
    rows = [
        (
            _inline(domain),
            role if domain == target else "source",
            *(str(splits.get(split, 0)) for split in ("train", "val", "test")),
            str((run.data.evaluated or {}).get(domain, "-")),
        )
        for domain, splits in run.data.images.items()
    ]
    note = "Training labels are of the sources' train split alone; calibration used their val split."
    if run.is_oracle:
        note += (
            " The weights were selected by their accuracy on the target's val split, whose labels were used: "
            "what is said of the target is of an oracle, not of an unseen domain."
        )
    table = _table(("domain", "role", "train", "val", "test", "evaluated on"), rows)
    return [*table, "", note, *_odd_images(run)]


def _odd_images(run: RunFacts) -> Iterator[str]:
    skipped, copies = run.data.skipped, run.data.copies
    yield ""
    if unlabelled := run.data.unlabelled:
        yield (
            f"- Images without labels that it was trained on, too: {unlabelled.images}, of them "
            f"{unlabelled.of_target} of the target domain"
        )
    yield f"- Images left out because they cannot be used: {'not known' if skipped is None else len(skipped)}"
    yield from _copies(copies) if copies else ["- Copies of images: not known"]


def _copies(copies: CopyFacts) -> list[str]:
    fate = "used all the same" if copies.allowed else "left out"
    return [
        f"- Images whose bytes another image has, too: {copies.images}; of them {len(copies.two_labels)} "
        f"under two classes and {len(copies.held_out)} of a source with a held-out copy, which were {fate}",
        f"- Training images that show nearly the same picture as a held-out one: {copies.near}",
    ]


def _accuracy(manifest: Manifest) -> list[str]:
    measured = {name: made.accuracy for name, made in manifest.precisions.items() if made.accuracy}
    known = manifest.distilled_accuracy
    lines = ["Not known for these classes."] if not measured else []
    target = (manifest.run.target_words if manifest.run else TargetWords()).role
    if measured:
        first = next(iter(measured.values()))
        rows = [
            (target, *(one.ood_text if one.ood is None else _percent(one.ood) for one in measured.values())),
            ("sources, ID, mean", *(_percent(one.id) for one in measured.values())),
            *(
                (
                    f"{_inline(name)} ({_kind(facts, target)})",
                    *(_percent(a.domains[name].accuracy) for a in measured.values()),
                )
                for name, facts in first.domains.items()
            ),
            (
                f"source validation ({first.source_validation.images} images, chosen on)",
                *(_percent(one.source_validation.accuracy) for one in measured.values()),
            ),
        ]
        lines = ["Through each file, in percent:", "", *_table(("images", *measured), rows)]
    if known:
        of_run = [("student in PyTorch", known.student), ("zero-shot teacher", known.teacher)]
        of_run.append(("linear probe of the pretrained student", known.linear_probe))
        before = " with the classes it was distilled for" if manifest.relabelled else ""
        compared = [
            (name, _ood(shares, known.target), _percent(fmean(ids)))
            for name, shares in of_run
            if shares
            and (ids := [v for domain, v in shares.items() if domain != known.target])
            and _all(shares.values())
        ]
        lines += ["", f"As the run measured{before}, in percent:", ""]
        of_target = target.replace("target, OOD", "OOD")
        if known.target != NO_TARGET:
            of_target += f": {_inline(known.target)}"
        lines += _table(("what", of_target, "ID: mean of the sources"), compared)
    return lines


def _ood(shares: Mapping[str, float | None], target: str) -> str:
    share = shares.get(target)
    return without_ood(len(shares)) if share is None else _percent(share)


def _all(values: Iterable[float | None]) -> bool:
    return all(value is not None for value in values)


def _kind(facts: DomainAccuracy, target: str) -> str:
    kind = target if facts.role == "target" else "source, ID"
    chosen = ", chosen on" if facts.chosen_on else ""
    return f"{kind}, {facts.images} of {facts.of} images{chosen}"


def _files(manifest: Manifest) -> list[str]:
    rows = [_file(precision, made) for precision, made in manifest.precisions.items()]
    head = ("file", "precision", "MB", "same labels as PyTorch", "largest logit error", "least cosine")
    engines = [f"- TensorRT engine: `{name}` ({one.precision})" for name, one in manifest.engines.items()]
    return [*_table(head, rows), *(["", *engines] if engines else [])]


def _file(precision: str, made: OnnxFile) -> tuple[str, ...]:
    parity = made.parity
    return (
        f"`{made.file}`",
        precision,
        f"{made.bytes / 1e6:.1f}",
        f"{_percent(parity.agreement)} % of {parity.images}",
        f"{parity.max_logit_error:.1e}",
        f"{parity.min_cosine:.4f}",
    )


def _preprocessing(manifest: Manifest) -> list[str]:
    size = manifest.image_size_px
    return [
        f"Input `images`: uint8 (B, {size}, {size}, 3), RGB; outputs `logits` (B, {len(manifest.classes)}) "
        f"and `embedding` (B, {manifest.embedding_dim}), L2-normalised. Mean and deviation are inside the "
        f"graph. From a file to pixels, which the client does: {markdown_cell(manifest.preprocessing)}."
    ]


def _confidence(manifest: Manifest) -> list[str]:
    found = manifest.confidence
    lines = [f"- Temperature {found.temperature:.3g}, inside the graph"]
    if found.ece_before is not None and found.ece_after is not None:
        mean = {
            "domains": ", every source domain weighing the same",
            "images": ", every image weighing the same",
        }
        weighed = mean.get(found.validation_mean or "", "")
        lines[0] += (
            f", fitted on {found.images} images of source validation{weighed}: "
            f"calibration error {_percent(found.ece_before)} % before, {_percent(found.ece_after)} % after"
        )
    if found.abstain_below is not None and found.coverage is not None:
        lines.append(
            f"- It abstains below {found.abstain_below:.3f}, so that {_percent(found.coverage)} % of source "
            "validation is answered"
        )
    return [*lines, *([f"- {markdown_cell(found.note)}"] if found.note else [])]


def _limits(manifest: Manifest) -> list[str]:
    lines = [
        "- It gives one of its classes to every image, also to one that shows none of them; look at its "
        "confidence, and watch for drift with `vl2v_deploy.client.Monitor`.",
        "- Accuracy is of the images above. On others, such as of another domain, measure it first.",
        "- It inherits what its teacher and the backbone's pretraining data get wrong about the world.",
        "- The licence of this student is for its owner to state here; those of the teacher, the backbone's "
        "weights and the images apply, and may forbid to pass it on.",
    ]
    terms = manifest.run.teacher.terms if manifest.run else None
    if terms:
        lines.append(
            f"- The teacher's vendor: terms at {_inline(terms.url)}, read on {_inline(terms.read_on)} by "
            f"whoever distilled it, as permitting use: {_inline(terms.permits)}."
        )
    return lines


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown already."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]]


def _inline(name: str) -> str:
    return markdown_text(name)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
