"""`vl2v-deploy teacher serve`: a local teacher behind HTTP, for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vl2v_deploy.cli.options import ALLOW_FORMAT, ANY_PATH, SETTINGS


@click.command()
@click.argument("recipe", type=ANY_PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 = all.")
@click.option("--port", default=8080, show_default=True, help="Port; 0 = any that is free.")
@click.option("--name", help="Name of the model for clients.  [default: the last part of the teacher's name]")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the teacher computes.",
)
@click.option("--key-env", metavar="NAME", help="Environment variable with the key that clients must send.")
@click.option("--requests-per-minute", type=float, help="Limit for each client address.")
@click.option("--images-per-minute", type=float, help="Limit for each client address.")
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    help="Images or texts computed at once; each batch is filled up to it. A smaller one answers sooner.  "
    "[default: teacher.batch_size]",
)
@click.option("--max-delay-ms", default=5.0, show_default=True, help="Longest wait to fill a batch.")
@click.option("--max-queue", default=4096, show_default=True, help="Most images and texts in work; else 503.")
@click.option(
    "--max-body-bytes", default=32_000_000, show_default=True, help="Largest request body; else 413."
)
@click.option(
    "--max-held-body-bytes",
    default=256_000_000,
    show_default=True,
    help="Largest sum of the bodies of all requests in work; else 503.",
)
@click.option(
    "--read-timeout-s",
    default=10.0,
    show_default=True,
    help="Time for a request's headers, and for each 64 KB of its body; else 408.",
)
@click.option(
    "--decode-deadline-s", default=10.0, show_default=True, help="Time for all images of a request; else 422."
)
@ALLOW_FORMAT
@SETTINGS
def serve(
    recipe: Path,
    device: str,
    name: str | None,
    key_env: str | None,
    overrides: tuple[str, ...],
    formats: tuple[str, ...],
    **settings: Any,
) -> None:
    """Serve the teacher of RECIPE to others: an OpenAI-style and a KServe v2 API, one model, batches.

    Recipes name it with `teacher: {kind: http, api: openai, url: http://HOST:PORT, model: NAME, ...}`.
    Answers are the same whatever they are computed beside; SIGTERM ends it once all that wait are answered.

    \b
    vl2v-deploy teacher serve recipes/quickstart.yaml
    VL2V_KEY=... vl2v-deploy teacher serve pacs.yaml --host 0.0.0.0 --key-env VL2V_KEY --device cuda
    """
    from vl2v_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from vl2v_deploy.client.images import WEB_FORMATS
    from vl2v_deploy.serving.run import serve_recipe
    from vl2v_deploy.serving.settings import ServeSettings, key_from_environment

    chosen = ServeSettings(key=key_from_environment(key_env), formats=WEB_FORMATS + formats, **settings)
    if chosen.key is None and chosen.host not in ("127.0.0.1", "::1", "localhost"):
        click.echo(f"Whoever reaches {chosen.host} may query this teacher: there is no --key-env.", err=True)
    serve_recipe(loaded.teacher, chosen, device=device, name=name, ready=click.echo)
