"""EmojiDG, the built-in benchmark: five drawing styles, twelve classes, split by concept family.

Beside it lie drawings without labels, by the same and other hands, for students that learn from such.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from importlib.resources import as_file
from pathlib import Path

from vl2v_deploy.data.cache import cache_dir, made_in_cache
from vl2v_deploy.data.demo import DISTRIBUTION, demo_file
from vl2v_deploy.errors import DataError
from vl2v_deploy.folders import scratch_folder

GROUPS = "groups.csv"
NOT_FOR = "not_for.json"  # of each target domain, the styles by the same hand


def emojidg_root() -> Path:
    """The folder domain/class/image of EmojiDG with its groups.csv, unpacked on first use.

    Raises MissingExtra without the demo's data, DataError where they lack the archive.
    """
    return _unpacked("emojidg")


def emojidg_unlabelled_styles(target: str) -> list[Path]:
    """Folders of drawings without labels, one for each style, that a student of this target domain may see.

    Styles by the hand that drew the target are left out. No drawing shows the same picture as one of EmojiDG,
    none is of a val or test concept.

    Raises MissingExtra without the demo's data, DataError where they lack the archive.
    """
    root = _unpacked("emojidg_unlabelled")
    not_for = json.loads((root / NOT_FOR).read_text(encoding="utf-8")).get(target, [])
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name not in not_for)


def _unpacked(name: str) -> Path:
    """The folder of a shipped archive, NAME.zip with the folder NAME in it."""
    entry = f"builtin:{name.replace('_', '-')}"
    packed = demo_file(f"{name}.zip", entry)
    if not packed.is_file():
        raise DataError(f"{entry}: {name}.zip is missing from this {DISTRIBUTION}: install it again")
    with as_file(packed) as archive, made_in_cache(f"the unpacked {name}.zip"):
        return _unpack(archive, cache_dir())


def _unpack(archive: Path, cache: Path) -> Path:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    name = archive.stem
    root = cache / f"{name}-{digest}"
    if root.is_dir():
        return root
    # Unpack aside and rename: another process, or Ctrl-C, never leaves a half data set under the final name.
    with scratch_folder(root) as scratch:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
        try:
            (scratch / name).rename(root)
        except OSError:
            if not root.is_dir():  # somebody else was first: theirs is as good
                raise
    return root
