"""`vl2v-deploy doctor`: what is wrong with this installation and machine, and what to do."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object, for bug reports.")
def doctor(as_json: bool) -> None:
    """What is wrong with this installation and machine, and how to fix it.

    Packages, GPU, processor, threads, cache, model hub, environment variables. Nothing is changed. Values of
    variables that look like secrets are not shown.

    Exit code 0: nothing is broken, though there may be warnings. 1: something is broken.

    \b
    vl2v-deploy doctor
    vl2v-deploy doctor --json > doctor.json
    """
    from vl2v_deploy.doctor.command import diagnose

    sys.exit(diagnose(as_json=as_json))
