"""`vl2v-deploy relabel`: give a finished bundle other classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.cli.engines import engine_options, engines_from_options
from vl2v_deploy.cli.options import ANY_PATH, OVERWRITE, SETTINGS
from vl2v_deploy.errors import ParityError
from vl2v_deploy.names import command

if TYPE_CHECKING:  # for annotations alone: a command imports what is heavy when it runs
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
