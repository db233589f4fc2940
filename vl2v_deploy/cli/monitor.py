"""`vl2v-deploy monitor`: are the images that were predicted still like those of source validation?"""

from __future__ import annotations

from pathlib import Path

import click

from vl2v_deploy.cli.options import ANY_PATH


@click.command()
@click.argument("bundle", type=ANY_PATH)
@click.argument("predictions", type=ANY_PATH)
@click.option(
    "--alpha",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Chance of an alarm, ever, where nothing changed.",
)
@click.option(
    "--window",
    default=512,
    show_default=True,
    type=click.IntRange(min=16),
    help="Predictions that are described, and compared anew with the reference.",
)
@click.option("--precision", help="File of the bundle that answered.  [default: as the log says]")
@click.option("--out", type=ANY_PATH, help="Figure, PNG or SVG.  [default: PREDICTIONS with .drift.png]")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
def monitor(
    bundle: Path,
    predictions: Path,
    alpha: float,
    window: int,
    precision: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge logged PREDICTIONS (JSON lines or Parquet) by the reference statistics in BUNDLE, and draw it.

    The log is what `vl2v-deploy predict --json` prints, in the order in which images came. With --embeddings
    it holds the "embedding" of each image too, in which drift shows soonest.

    \b
    vl2v-deploy predict bundles/quickstart *.jpg --json --embeddings > log.jsonl
    vl2v-deploy monitor bundles/quickstart log.jsonl
    """
    import json

    from vl2v_deploy.client.archive import opened_bundle
    from vl2v_deploy.client.typed_json import to_json
    from vl2v_deploy.exporting.finished.logged import read_predictions
    from vl2v_deploy.exporting.finished.watching import judge_log, plot_course, words_of

    figure = out or predictions.with_suffix(".drift.png")
    with opened_bundle(bundle) as opened:
        logged = read_predictions(predictions, opened, precision)
        course = judge_log(opened, logged, window=window, alpha=alpha)
    plot_course(course, figure, f"{bundle.name} ({logged.precision}): {predictions.name}")
    if as_json:
        facts = {"precision": logged.precision, "errors": logged.errors, "figure": str(figure)}
        click.echo(json.dumps(facts | to_json(course.drift)))
    else:
        click.echo("\n".join([*words_of(course, logged), f"figure: {figure}"]))
