"""The demo's data, which `builtin:` names: a distribution of its own, to keep the client's install small."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from vl2v_deploy.errors import MissingExtra

DISTRIBUTION = "vl2v-deploy-demo"  # demo_data/ in the repository; the extra demo asks for it
PACKAGE = "vl2v_deploy_demo"


def demo_file(name: str, entry: str) -> Traversable:
    """A file of the demo's data; whether it is there, its reader finds out.

    entry: what a recipe calls the data that the file is part of

    Raises MissingExtra when the distribution is not installed.
    """
    try:
        return files(PACKAGE) / name
    except ModuleNotFoundError as error:
        hint = f", or in a clone of the repository: pip install ./demo_data; {entry} is part of it"
        raise MissingExtra(PACKAGE, "demo", hint) from error
