"""Folders that export writes beside bundles (Triton, web): whole or not at all, never over other files.

Each holds vl2v-deploy.json: the bundle it came from, and the SHA-256 of every other file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vl2v_deploy import __version__
from vl2v_deploy.client.bundle import MANIFEST, Bundle
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.errors import ExportError
from vl2v_deploy.folders import OWNER, whole_folder

RECORD = "vl2v-deploy.json"


@contextmanager
def written_folder(bundle: Bundle, out: Path, what: str) -> Iterator[Path]:
    """An empty folder that becomes `out`, with its record, when all went well.

    what: the folder in words, such as "Triton repository"
    """
    with whole_folder(out) as partial:
        yield partial
        record = {
            "made_by": f"vl2v-deploy {__version__}",
            "what": what,
            "bundle": {
                "name": bundle.name,
                "manifest_sha256": sha256_of(bundle.path / MANIFEST),
            },
            "files": {name: sha256_of(partial / name) for name in _files(partial)},
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def require_free_folder(bundle: Path, out: Path, what: str, *, overwrite: bool = False) -> None:
    """ExportError when `out` must not be written; to be asked before a long export.

    It may be missing, empty, or one of ours that nobody has changed.

    what:      as `written_folder` was given it
    overwrite: also one of ours in which something was changed or added since
    """
    if out.resolve().is_relative_to(bundle.resolve()) or bundle.resolve().is_relative_to(out.resolve()):
        raise ExportError(f"{out}: bundle and {what} may not be inside one another; pass another folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: is a file; pass a folder for the {what}")
    if not any(out.iterdir()):
        return
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        made = dict(record["files"])
        if record["what"] != what:
            raise ValueError(record["what"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{out}: is not empty and holds no {what} made here; pass another folder"
        ) from error
    others = [name for name in _files(out) if made.get(name) != sha256_of(out / name)]
    if others and not overwrite:
        raise ExportError(
            f"{out}: {', '.join(others[:3])}{', ...' * (len(others) > 3)}: changed or added since it was "
            "made; pass --overwrite to replace all of it, or another folder"
        )


def _files(folder: Path) -> list[str]:
    """Every file, relative, without those that mark the folder as ours."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in (RECORD, OWNER))
