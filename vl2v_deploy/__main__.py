"""`vl2v-deploy` and `python -m vl2v_deploy`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the CLI; without the packages it needs, say which to install."""
    try:
        from vl2v_deploy.cli.main import cli
    except ImportError as error:
        if error.name != "click":
            raise
        sys.exit("Error: the command line needs click; run: pip install 'vl2v-deploy[train,cpu]'")
    cli()


if __name__ == "__main__":
    main()
