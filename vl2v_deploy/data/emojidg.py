"""EmojiDG, the built-in benchmark: five drawing styles, twelve classes, split by concept family."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from importlib.resources import as_file, files
from pathlib import Path

from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.errors import DataError

GROUPS = "groups.csv"


def emojidg_root() -> Path:
    """The folder domain/class/image of EmojiDG with its groups.csv, unpacked on first use.

    Raises DataError when this installation lacks the archive.
    """
    packed = files("vl2v_deploy.builtin") / "emojidg.zip"
    if not packed.is_file():
        raise DataError(
            "builtin:emojidg: emojidg.zip is missing from this installation of vl2v-deploy; reinstall it"
        )
    with as_file(packed) as archive:
        return _unpack(archive, cache_dir())


def _unpack(archive: Path, cache: Path) -> Path:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    root = cache / f"emojidg-{digest}"
    if root.is_dir():
        return root
    # Unpack aside and rename: another process, or Ctrl-C, never leaves a half data set under the final name.
    with tempfile.TemporaryDirectory(dir=cache, prefix="emojidg-") as scratch:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(scratch)
        try:
            (Path(scratch) / "emojidg").rename(root)
        except OSError:
            if not root.is_dir():  # somebody else was first: theirs is as good
                raise
    return root
