"""The page of all errors, from the exception tree."""

from __future__ import annotations

from fields import cell, code, prose_and_fields, table

from vl2v_deploy import errors


def errors_page() -> str:
    """Every error that a user can act on, with its bases, its exit code and what it says."""
    tree = (errors.__doc__ or "").split("\n\n")[1]
    lines = [
        "# Errors",
        "",
        "Made from the code. Every error that a user can cause or must act on is a `VL2VError`. Its message",
        "is one line: what is wrong, where, what was expected, what to do. The command line prints it and",
        "exits with the code below; any other exception is a bug and keeps its traceback.",
        "",
        "```text",
        *(line for line in tree.splitlines()),
        "```",
    ]
    rows = [
        (
            code(kind.__name__),
            code(", ".join(base.__name__ for base in kind.__bases__)),
            str(kind.exit_code),
            cell(prose_and_fields(kind.__doc__)[0]),
        )
        for kind in _all(errors.VL2VError)
    ]
    return "\n".join([*lines, *table({"error": "---", "is a": "---", "exit": "---:", "means": "---"}, rows)])


def _all(kind: type[errors.VL2VError]) -> list[type[errors.VL2VError]]:
    below = [found for found in kind.__subclasses__() if found.__module__ == errors.__name__]
    return [kind, *(inner for found in below for inner in _all(found))]
