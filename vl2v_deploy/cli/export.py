"""`vl2v-deploy export`, `inspect` and `verify`: make a bundle, describe it, check it on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vl2v_deploy.cli.engines import builder_options, engine_options, engines_from_options
from vl2v_deploy.cli.options import ANY_PATH, BUNDLES, OVERWRITE, RUNS
from vl2v_deploy.errors import ExportError

if TYPE_CHECKING:
    from vl2v_deploy.exporting.targets.web import WebOptions

# options that are fields of ExportOptions as they are
_SAME_NAMES = (
    *("max_accuracy_drop", "max_fp32_share", "calibration_images", "coverage", "max_images"),
    *("data_root", "allow_changed_data", "skip_refused"),
)


@click.command()
@click.argument("run", type=ANY_PATH, required=False)
@click.option("--out", type=ANY_PATH, help="Bundle directory.  [default: bundles/<run name>, replaced]")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="ONNX files to make: fp32,fp16,int8 (int8-symmetric is int8 for TensorRT).",
)
@click.option(
    "--max-accuracy-drop",
    default=0.5,
    show_default=True,
    type=click.FloatRange(min=0.0),
    metavar="POINTS",
    help="Source validation accuracy that int8 may cost.",
)
@click.option(
    "--max-fp32-share",
    default=0.2,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    metavar="SHARE",
    help="Largest share of MACs left in fp32 in an fp16 or int8 file.",
)
@click.option(
    "--calibration-images",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="Source training images to calibrate fp16 and int8 on.",
)
@click.option(
    "--coverage",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True),
    metavar="SHARE",
    help="Share of source validation images that the student answers without abstaining.",
)
@click.option(
    "--max-images",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Largest number of held-out images per domain to measure accuracy on.",
)
@click.option("--data", "data_root", type=ANY_PATH, help="Where the run's images are now.")
@click.option("--allow-changed-data", is_flag=True, help="Go on if they are not those it was distilled from.")
@click.option(
    "--skip-refused", is_flag=True, help="Leave out, by name, the precisions that the student cannot have."
)
@engine_options
@builder_options
@click.option("--triton", type=ANY_PATH, metavar="DIR", help="Also write a model repository for Triton.")
@click.option(
    "--triton-device",
    type=click.Choice(["cpu", "gpu"]),
    help="What Triton's onnxruntime models run on.  [default: cpu]",
)
@click.option("--web", type=ANY_PATH, metavar="DIR", help="Also write a page that answers in the browser.")
@click.option(
    "--web-precision",
    metavar="LIST",
    help="Files on the page, the first loaded first.  [default: fp32, and int8 if exported]",
)
@click.option(
    "--web-runtime",
    metavar="vendor|cdn|DIR",
    help="onnxruntime-web copied from npm, fetched by visitors, or copied from a folder.  [default: vendor]",
)
@click.option(
    "--sign",
    type=ANY_PATH,
    metavar="KEY",
    help="Sign the bundle with a private key on an elliptic curve (PEM).",
)
@OVERWRITE
def export(
    run: Path | None,
    out: Path | None,
    sign: Path | None,
    triton: Path | None,
    triton_device: Literal["cpu", "gpu"] | None,
    web: Path | None,
    web_precision: str | None,
    web_runtime: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Export RUN (default: the newest finished run under runs/) to a bundle whose files are checked.

    \b
    vl2v-deploy export
    vl2v-deploy export --precision fp32,fp16,int8
    vl2v-deploy export --trt
    vl2v-deploy export runs/quickstart --rtx --compute-capability 8.6,8.9 --out bundles/quickstart
    vl2v-deploy export --precision int8 --triton models
    vl2v-deploy export --precision fp32,int8 --web page
    vl2v-deploy export --sign key.pem
    """
    from vl2v_deploy.api import bundle_name
    from vl2v_deploy.exporting.options import ExportOptions, precisions_from_text
    from vl2v_deploy.exporting.run import export_run
    from vl2v_deploy.exporting.targets.triton import WHAT
    from vl2v_deploy.exporting.targets.web import require_web
    from vl2v_deploy.exporting.targets.written_folder import require_free_folder
    from vl2v_deploy.models.run_directory import newest_run

    source = run or newest_run(RUNS)
    # A bundle can be made again from its run at any time: the one of the default name is replaced.
    target = out or BUNDLES / bundle_name(source)
    asked = ExportOptions(
        precisions_from_text(options["precision"]),
        engines=engines_from_options(options),
        **{name: options[name] for name in _SAME_NAMES},
    )
    # Whatever is wrong with the folders to be written is reported before the long export.
    if triton:
        require_free_folder(target, triton, WHAT, overwrite=overwrite)
    elif triton_device:
        raise click.UsageError("--triton-device goes with --triton")
    for_web = _web_options(web_precision, web_runtime, asked.files)
    if web:
        require_web(target, web, for_web, overwrite=overwrite)
    elif web_precision or web_runtime:
        raise click.UsageError("--web-precision and --web-runtime go with --web")
    if triton and web and triton.resolve() == web.resolve():
        raise click.UsageError("--triton and --web: pass two folders")
    if sign:
        from vl2v_deploy.exporting.finished.signing import require_signer, sign_bundle

        require_signer(sign)
    export_run(source, target, asked, overwrite=overwrite or out is None)
    if sign:
        click.echo(f"Wrote {sign_bundle(target, sign)}", err=True)
    if triton:
        _write_triton(target, triton, triton_device or "cpu", overwrite)
    if web:
        _write_web(target, web, for_web, overwrite)


def _web_options(precision: str | None, runtime: str | None, exported: Sequence[str]) -> WebOptions:
    """ExportError for a precision that is not for the web or will not be in the bundle."""
    from vl2v_deploy.exporting.targets.web import WebOptions

    names: Any = tuple(dict.fromkeys(name.strip() for name in precision.split(","))) if precision else None
    options = WebOptions(names, runtime or "vendor")
    if missing := [name for name in options.precisions or () if name not in exported]:
        raise ExportError(f"--web-precision {missing[0]}: is not exported; add it to --precision")
    return options


def _write_triton(bundle: Path, out: Path, device: Literal["cpu", "gpu"], overwrite: bool) -> None:
    from vl2v_deploy.exporting.targets.triton import write_triton
    from vl2v_deploy.exporting.targets.triton_config import TritonOptions

    repository = write_triton(bundle, out, TritonOptions(device=device), overwrite=overwrite)
    click.echo(f"{out}: {', '.join(model.name for model in repository.models)}", err=True)
    for file, reason in repository.left_out.items():
        click.echo(f"{out}: without {file}: {reason}", err=True)


def _write_web(bundle: Path, out: Path, options: WebOptions, overwrite: bool) -> None:
    from vl2v_deploy.exporting.targets.web import write_web
    from vl2v_deploy.exporting.targets.web_runtime import VERSION

    facts = write_web(bundle, out, options, overwrite=overwrite)
    files = ", ".join(f"{model.precision} ({model.bytes / 1e6:.1f} MB)" for model in facts.models)
    version = facts.runtime.version
    untested = "" if version == VERSION else f", not the {VERSION} that the page was tested with"
    click.echo(f"{out}: {files}; onnxruntime-web {version}{untested}", err=True)
    click.echo(f"{out}: look at it with: python -m http.server -d {out}", err=True)


@click.command()
@click.argument("bundle", type=ANY_PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def inspect(bundle: Path | None, as_json: bool) -> None:
    """What is in BUNDLE (directory or zip file; default: the newest under bundles/).

    Files, precisions, accuracy, parity, confidence and engines, as the manifest has them.

    \b
    vl2v-deploy inspect bundles/quickstart
    """
    from vl2v_deploy.client.archive import opened_bundle
    from vl2v_deploy.client.bundle import MANIFEST, newest_bundle

    with opened_bundle(bundle or newest_bundle(BUNDLES)) as opened:
        if as_json:
            click.echo((opened.path / MANIFEST).read_text(encoding="utf-8"), nl=False)
            return
        from vl2v_deploy.exporting.finished.inspection import print_bundle
        from vl2v_deploy.terminal import new_console

        print_bundle(opened, new_console())


@click.command()
@click.argument("bundle", type=ANY_PATH, required=False)
@click.option(
    "--key",
    type=ANY_PATH,
    metavar="PUB",
    help="First check that each file is what the owner of this public key (PEM) signed.",
)
@click.option("--json", "as_json", is_flag=True, help="The checks as one JSON object.")
def verify(bundle: Path | None, key: Path | None, as_json: bool) -> None:
    """Check BUNDLE (directory or zip file; default: the newest under bundles/) on this machine.

    The hashes are compared, and every file is run on the golden samples: TensorRT engines where this machine
    can run them, else it says why not. Exits 1 when a file gives other answers than it should.

    \b
    vl2v-deploy verify bundles/quickstart
    vl2v-deploy verify bundles/quickstart --key key.pub
    """
    from vl2v_deploy.client.archive import opened_bundle
    from vl2v_deploy.client.bundle import newest_bundle
    from vl2v_deploy.exporting.finished.verification import (
        Check,
        checks_tree,
        print_checks,
        require_passed,
        verify_bundle,
    )
    from vl2v_deploy.terminal import new_console

    source = bundle or newest_bundle(BUNDLES)
    signed = []
    if key:
        from vl2v_deploy.exporting.finished.signing import SIGNATURE, require_signed

        require_signed(source, key)
        signed = [Check(SIGNATURE, "ok", f"every file is as the owner of {key} signed it")]
    with opened_bundle(source) as opened:
        checks = [*signed, *verify_bundle(opened)]
    if as_json:
        click.echo(json.dumps(checks_tree(checks)))
    else:
        print_checks(checks, new_console())
    require_passed(source, checks)


export_commands = (export, inspect, verify)
