"""The page of the Python API; mkdocstrings fills in signatures and docstrings."""

from __future__ import annotations

from vl2v_deploy import _HOME, client

CLIENT = sorted(set(client.__all__) - {"Student"})
OTHERS = ["vl2v_deploy.testing.check_teacher", "vl2v_deploy.models.teacher.protocol.Teacher"]


def python_page() -> str:
    """Names of vl2v_deploy, of vl2v_deploy.client, and what a teacher of your own needs."""
    lines = [
        "# Functions and classes",
        "",
        "Made from the code. An overview with examples: [Python](../python.md).",
    ]
    lines += ["", "## `vl2v_deploy`", ""]
    lines += [_entry(f"vl2v_deploy.{home}.{name}") for name, home in sorted(_HOME.items())]
    lines += ["## `vl2v_deploy.client`", ""]
    lines += [_entry(f"{getattr(client, name).__module__}.{name}") for name in CLIENT]
    lines += ["## A teacher of your own", "", *(_entry(name) for name in OTHERS)]
    return "\n".join(lines)


def _entry(name: str) -> str:
    return f"::: {name}\n"
