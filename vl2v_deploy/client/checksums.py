"""SHA256SUMS: the files that belong to a bundle, and whether each is what export wrote."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

from vl2v_deploy.errors import BundleError, one_line
from vl2v_deploy.regular_files import LinkOutError, open_regular

CHECKSUMS = "SHA256SUMS"
_SHA256 = re.compile("[0-9a-f]{64}")
_MOST_BYTES = 1_000_000


def read_checksums(path: Path) -> dict[str, str]:
    """SHA-256 by file name, from a bundle's SHA256SUMS; BundleError where it cannot be read."""
    try:
        text = bounded_text(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing: {path.parent} is not a bundle of vl2v-deploy") from error
    except OSError as error:
        raise unreadable(path, path.parent, error) from error
    return checksums_from_text(text, str(path))


def checksums_from_text(text: str, where: str) -> dict[str, str]:
    """SHA-256 by file name, from SHA256SUMS; BundleError, which starts with `where`, for a wrong line."""
    sums = {}
    for number, line in enumerate(text.splitlines(), 1):
        digest, separator, name = line.partition("  ")
        parts = Path(name).parts
        plain = name.isprintable() and parts and ".." not in parts and not Path(name).is_absolute()
        if not separator or not _SHA256.fullmatch(digest) or not plain:
            raise BundleError(f"{where}: line {number}: expected '<sha256>  <file in the bundle>'")
        sums[name] = digest
    return sums


def check_file(path: Path, expected: str, root: Path) -> None:
    """BundleError unless the file of the bundle in `root` has this SHA-256."""
    try:
        actual = sha256_of(path, inside=root)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing from the bundle; export it again") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL, from a damaged list
        raise unreadable(path, root, error) from error
    if actual != expected:
        raise BundleError(
            f"{path}: was changed or damaged: SHA-256 is {actual[:12]}..., "
            f"{CHECKSUMS} says {expected[:12]}...; copy the bundle again or export it again"
        )


def sha256_of(path: Path, *, inside: Path | None = None) -> str:
    """SHA-256 of the file's bytes, hexadecimal; raises what `regular_files.open_regular` raises."""
    with open_regular(path, inside=inside) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bounded_text(path: Path, most: int) -> str:
    """The text of a file of a bundle; BundleError for more than `most` bytes, or what is not UTF-8."""
    with open_regular(path, inside=path.parent) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BundleError(f"{path}: is larger than {most:,} bytes: refused")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error


def unreadable(path: Path, root: Path, error: OSError | ValueError) -> BundleError:
    """Why a file of the bundle in `root` cannot be read, and what to do."""
    if isinstance(error, LinkOutError):  # as in a snapshot of a hub's cache, whose files are links
        copy = f"cp -rL {shlex.quote(str(root))} COPY"
        return BundleError(f"{path}: is a link out of the bundle: refused; copy it without links: {copy}")
    reason = error.strerror if isinstance(error, OSError) else None
    why = reason or one_line(error)
    return BundleError(f"{path}: cannot be read: {why}; copy the bundle again, as a user who may read it")
