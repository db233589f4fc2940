"""`vl2v-deploy predict` and `relabel`: use a finished bundle, or give it other classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.cli.engines import engine_options, engines_from_options
from vl2v_deploy.cli.options import ALLOW_FORMAT, ANY_PATH, OVERWRITE, SETTINGS
from vl2v_deploy.errors import ImageError, ParityError
from vl2v_deploy.names import command, shown
from vl2v_deploy.signals import postponed

if TYPE_CHECKING:  # for annotations alone: a command imports what is heavy when it runs
    from vl2v_deploy.client import Prediction
    from vl2v_deploy.client.manifest import Manifest


@click.command()
@click.argument("bundle", type=ANY_PATH)
@click.option(
    "--classes",
    "classes_file",
    type=ANY_PATH,
    required=True,
    help="New classes: one per line, or YAML, JSON {class: its name in prompts, or a list of whole prompts}, "
    "or CSV with the columns class,name.",
)
@click.option("--out", type=ANY_PATH, help="New bundle directory.  [default: <bundle>-relabelled]")
@SETTINGS
@engine_options
@OVERWRITE
def relabel(
    bundle: Path,
    classes_file: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
    **engines: Any,
) -> None:
    """Put new class names into BUNDLE without training: a new bundle, the old one is left as it is.

    The teacher turns the names into text embeddings by the prompts of the bundle's recipe, whose teacher and
    prompts --set can change; paths are relative to the bundle. Accuracy is not known for the new classes:
    benchmark it with --data.

    \b
    vl2v-deploy relabel bundles/quickstart --classes zoo.txt --out bundles/zoo
    vl2v-deploy relabel bundles/quickstart --classes zoo.yaml --set "prompts.templates=['a toy {class}']"
    """
    from vl2v_deploy.exporting.finished.relabel import relabel_bundle
    from vl2v_deploy.exporting.tensorrt.passport import unusable
    from vl2v_deploy.models.ledger.booking import billed_to

    target = out or bundle.resolve().with_name(f"{bundle.resolve().name}-relabelled")
    with billed_to(target.resolve().name):
        manifest = relabel_bundle(
            bundle,
            classes_file,
            target,
            overrides=overrides,
            engines=engines_from_options(engines),
            overwrite=overwrite,
        )
    _report(bundle, target, manifest)
    if wrong := unusable(manifest.engines):
        raise ParityError(f"{target}: {wrong}")


def _report(bundle: Path, out: Path, manifest: Manifest) -> None:
    """What was done, on standard error."""
    from vl2v_deploy.client.bundle import engine_precision
    from vl2v_deploy.exporting.tensorrt.passport import outcome

    assert manifest.relabelled is not None
    before, checks = manifest.relabelled.before, manifest.relabelled.parity.values()
    lines = [
        f"{out}: {len(manifest.classes)} classes, {bundle} has {len(before.classes)}; embeddings of "
        f"the golden samples moved by {max(check.max_embedding_change for check in checks):.1e}, logits "
        f"are within {max(check.max_logit_error for check in checks):.1e} of the new classifier's",
        "Accuracy is not known for these classes, and nothing abstains: the threshold was for the old ones.",
    ]
    if before.engines:
        lines.append(
            f"Left out, as they were built for the old classes: {', '.join(before.engines)}; "
            "build new engines with: vl2v-deploy relabel ... --trt or --rtx"
        )
    lines += [f"{out / name}: {outcome(passport)}" for name, passport in manifest.engines.items()]
    files = manifest.precisions
    if manifest.engines and "int8" in files and engine_precision("int8") not in files:
        lines.append(
            f"No int8 engine: TensorRT needs an {engine_precision('int8')} file; this bundle has none."
        )
    lines.append(f"Next: {command('predict', out)} IMAGE; {command('benchmark', out)} --data FOLDER")
    click.echo("\n".join(lines), err=True)


@click.command()
@click.argument("bundle", type=ANY_PATH)
@click.argument("images", nargs=-1, required=True, type=ANY_PATH)
@click.option(
    "--top", default=3, show_default=True, type=click.IntRange(min=1), help="How many classes to show."
)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="Which ONNX file of the bundle runs. auto: int8 on a CPU that is faster in it, fp16 on CUDA and "
    "TensorRT, where the bundle has them; else fp32.",
)
@click.option(
    "--providers",
    default="cpu",
    show_default=True,
    metavar="NAME[,NAME]",
    help="What runs it: cpu, cuda, tensorrt or onnxruntime's own names; the first must run. auto: CUDA where "
    "it runs, else the CPU.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of an operator.  [default: usable cores]"
)
@ALLOW_FORMAT
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, also for a bad image.")
@click.option(
    "--embeddings",
    is_flag=True,
    help="Put the image's embedding into each JSON object, in which `monitor` sees drift soonest.",
)
def predict(
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    precision: str,
    providers: str,
    threads: int | None,
    formats: tuple[str, ...],
    as_json: bool,
    embeddings: bool,
) -> None:
    """The labels that the student in BUNDLE (directory or zip file) gives to IMAGES; needs no torch.

    Images that cannot be used are reported, the others are still answered; then it exits 1.

    \b
    vl2v-deploy predict bundles/quickstart photo.jpg drawing.png
    vl2v-deploy predict bundles/quickstart.zip photo.jpg --precision fp32 --json
    vl2v-deploy predict bundles/quickstart *.jpg --json --embeddings > log.jsonl
    vl2v-deploy predict bundles/quickstart *.jpg --providers cuda --top 1
    """
    if embeddings and not as_json:
        raise click.UsageError("--embeddings: are written as JSON only; pass --json too")
    from vl2v_deploy.client import Limits, Student
    from vl2v_deploy.client.images import WEB_FORMATS

    student = Student.load(
        bundle,
        precision=precision,
        providers=providers if providers == "auto" else providers.split(","),
        threads=threads,
        limits=Limits(formats=WEB_FORMATS + formats),
    )
    with student:
        if "auto" in (precision, providers) and not as_json:
            click.echo(f"{student.precision} on {student.provider}: {student.runtime.why}", err=True)
        answers = student.stream(images, top=top, embeddings=embeddings, on_error="yield")
        bad = [
            image for image, answer in zip(images, answers, strict=True) if not _shown(image, answer, as_json)
        ]
    if bad:
        raise ImageError(f"{len(bad)} of {len(images)} images cannot be used: {', '.join(map(shown, bad))}")


@postponed()  # a line is printed whole, or not at all
def _shown(image: Path, answer: Prediction | ImageError, as_json: bool) -> bool:
    """Whether there is an answer; it is printed, or why there is none (as JSON, or to standard error)."""
    import json

    if isinstance(answer, ImageError):
        if as_json:
            click.echo(json.dumps({"image": str(image), "error": str(answer)}))
        else:
            click.echo(str(answer), err=True)
        return False
    if as_json:
        line = {"image": str(image), "label": answer.label, "probability": answer.probability}
        line |= {"top": answer.top, "abstained": answer.abstained}
        line |= {"provider": answer.runtime.provider, "precision": answer.runtime.precision}
        if answer.embedding is not None:
            # As many digits as tell float32 apart; float64's would be twice as many.
            line["embedding"] = [float(f"{value:.9g}") for value in answer.embedding]
        click.echo(json.dumps(line))
    else:
        ranked = "  ".join(f"{shown(label)} {probability:.3f}" for label, probability in answer.top)
        unsure = "  (unsure: under the bundle's threshold)" if answer.abstained else ""
        click.echo(f"{shown(image)}: {ranked}{unsure}")
    return True


bundle_commands = (predict, relabel)
