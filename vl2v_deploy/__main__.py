"""`vl2v-deploy` and `python -m vl2v_deploy`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vl2v_deploy import __version__


def main() -> None:
    """Run the CLI; without the packages it needs, run what needs none, or say which to install."""
    try:
        from vl2v_deploy.cli.main import cli
    except ImportError as error:
        if error.name != "click":
            raise
        sys.exit(_without_click(sys.argv[1:]))
    cli()


def _without_click(words: Sequence[str]) -> int | str:
    """What a client's environment has of the command line; the exit code, or what is wrong."""
    match list(words):
        case ["--version"]:
            print(f"vl2v-deploy, version {__version__}")
            return 0
        case ["doctor"] | ["doctor", "--json"]:
            from vl2v_deploy.doctor.command import diagnose

            return diagnose(as_json="--json" in words)
    return (
        "Error: the command line needs click; run: pip install 'vl2v-deploy[train,cpu]'. Without it there "
        "are `vl2v-deploy --version` and `vl2v-deploy doctor [--json]`."
    )


if __name__ == "__main__":
    main()
