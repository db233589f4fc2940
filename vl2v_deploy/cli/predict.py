"""`vl2v-deploy predict`: the student's answers to a few images, or to very many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.cli.options import ALLOW_FORMAT, ANY_PATH, OVERWRITE, part_option
from vl2v_deploy.errors import ImageError
from vl2v_deploy.names import listed, shown
from vl2v_deploy.signals import postponed

if TYPE_CHECKING:  # for annotations alone: a command imports what is heavy when it runs
    from vl2v_deploy.bulk.images import Image
    from vl2v_deploy.bulk.run import Settings
    from vl2v_deploy.client import Prediction

_MOST_NAMED = 5  # bad images in the last line


@click.command()
@click.argument("bundle", type=ANY_PATH)
@click.argument("inputs", nargs=-1, required=True, type=ANY_PATH, metavar="INPUT...")
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
    help="Put the image's embedding into each JSON object or row, in which `monitor` sees drift soonest.",
)
@click.option(
    "--out",
    type=ANY_PATH,
    help="Write rows to this .parquet, .csv or .jsonl file, or to files of 131,072 rows in this folder.",
)
@click.option(
    "--format",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    help="Of the files in a folder --out.  [default: parquet]",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished --out; a finished one is kept.")
@OVERWRITE
@click.option("--strict", is_flag=True, help="Exit with 1, once --out is written, if images failed.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that answer for --out, each with one thread.  [default: one a core; on a GPU one]",
)
@part_option(
    "Answer only every N-th block of 32 images, from the i-th on; all parts together are all images."
)
@click.option(
    "--decode-deadline",
    "decode_deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Decode in other processes, killed when an image takes longer; a crash costs that image only.",
)
def predict(bundle: Path, inputs: tuple[Path, ...], **options: Any) -> None:
    """The labels that the student in BUNDLE (directory or zip file) gives to images; needs no torch.

    INPUT is an image, a folder (all images below it), a quoted pattern, a list of paths (.txt, or the column
    image or path of a .csv or .parquet file), a .tar archive, or - for a list on standard input. Images that
    cannot be used are reported, the others are still answered; then it exits 1, with --out only if --strict.

    \b
    vl2v-deploy predict bundles/quickstart photo.jpg drawing.png
    vl2v-deploy predict bundles/quickstart.zip photo.jpg --precision fp32 --json
    vl2v-deploy predict bundles/quickstart *.jpg --json --embeddings > log.jsonl
    vl2v-deploy predict bundles/quickstart photos --out answers.parquet --resume
    find photos -newer last | vl2v-deploy predict bundles/quickstart - --out new.csv
    vl2v-deploy predict bundles/quickstart 'shards/*.tar' --part 3/8 --out answers/3.parquet --resume
    """
    from vl2v_deploy.bulk.run import Settings
    from vl2v_deploy.client import Limits
    from vl2v_deploy.client.images import WEB_FORMATS

    out, as_json = options.pop("out"), options.pop("as_json")
    resume, overwrite, strict = (options.pop(name) for name in ("resume", "overwrite", "strict"))
    _require_sense(out, as_json, resume, overwrite, strict, options)
    providers = options.pop("providers")
    limits = Limits(
        formats=WEB_FORMATS + options.pop("formats"), decode_deadline_s=options.pop("decode_deadline_s")
    )
    settings = Settings(
        providers=providers if providers == "auto" else providers.split(","), limits=limits, **options
    )
    words = list(map(str, inputs))
    if out is None:
        _print_all(bundle, words, settings, as_json)
    else:
        _write_all(bundle, words, out, settings, resume, overwrite, strict)


def _require_sense(
    out: Path | None, as_json: bool, resume: bool, overwrite: bool, strict: bool, options: dict[str, Any]
) -> None:
    """UsageError for options that do not go together."""
    if out is not None and as_json:
        raise click.UsageError("--json: prints; to write JSON lines pass --out FILE.jsonl alone")
    if resume and overwrite:
        raise click.UsageError("--resume: goes on, and --overwrite begins anew: pass one of them")
    if out is not None:
        return
    if options["embeddings"] and not as_json:
        raise click.UsageError("--embeddings: are written as JSON only; pass --json too, or --out")
    given = {"--resume": resume, "--overwrite": overwrite, "--strict": strict}
    given |= {f"--{name}": options[name] is not None for name in ("format", "workers")}
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise click.UsageError(f"{', '.join(wrong)}: only with --out")


def _write_all(
    bundle: Path,
    inputs: list[str],
    out: Path,
    settings: Settings,
    resume: bool,
    overwrite: bool,
    strict: bool,
) -> None:
    from vl2v_deploy.bulk.progress import in_words
    from vl2v_deploy.bulk.run import predict_to
    from vl2v_deploy.terminal import new_console

    outcome = predict_to(
        bundle, inputs, out, settings, new_console(stderr=True), resume=resume, overwrite=overwrite
    )
    if outcome.images is None:
        click.echo(f"{shown(out)}: was finished before and is kept; --overwrite makes it anew", err=True)
        return
    said = in_words(outcome.images, outcome.failed, outcome.now, outcome.seconds, None)
    click.echo(f"{shown(out)}: {said}", err=True)
    if outcome.failed and strict:
        raise ImageError(
            f"{outcome.failed} of {outcome.images} images cannot be used: see `error` in {shown(out)}"
        )


def _print_all(bundle: Path, inputs: list[str], settings: Settings, as_json: bool) -> None:
    from vl2v_deploy.bulk.answering import answered
    from vl2v_deploy.bulk.inputs import images_of
    from vl2v_deploy.bulk.parts import items_of_part
    from vl2v_deploy.bulk.rows import Columns
    from vl2v_deploy.client.stream import default_workers

    count, failed, named = 0, 0, []
    with settings.load(bundle) as student:
        if "auto" in (settings.precision, settings.providers) and not as_json:
            click.echo(f"{student.precision} on {student.provider}: {student.runtime.why}", err=True)
        images = items_of_part(images_of(inputs), settings.part)
        columns = Columns(settings.top, settings.embeddings)
        workers = default_workers(student.runtime.threads)
        for image, answer in answered(student, images, columns, workers=workers):
            count += 1
            if not _shown(image, answer, as_json):
                failed += 1
                named += [image.name] if failed <= _MOST_NAMED else []
    if failed:
        more = f" and {failed - len(named)} more" if failed > len(named) else ""
        raise ImageError(f"{failed} of {count} images cannot be used: {', '.join(named)}{more}")
    if not count:
        click.echo(f"{listed(inputs)}: no image is there", err=True)


@postponed()  # a line is printed whole, or not at all
def _shown(image: Image, answer: Prediction | ImageError, as_json: bool) -> bool:
    """Whether there is an answer; it is printed, or why there is none (as JSON, or to standard error)."""
    import json

    from vl2v_deploy.bulk.rows import row_of

    if as_json:
        click.echo(json.dumps(row_of(image, answer)))
    elif isinstance(answer, ImageError):
        click.echo(str(answer), err=True)
    else:
        ranked = "  ".join(f"{shown(label)} {probability:.3f}" for label, probability in answer.top)
        unsure = "  (unsure: under the bundle's threshold)" if answer.abstained else ""
        click.echo(f"{image.name}: {ranked}{unsure}")
    return not isinstance(answer, ImageError)
