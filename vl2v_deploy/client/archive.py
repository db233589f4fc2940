"""A bundle in a zip file, unpacked to a private directory; a hostile archive is refused."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vl2v_deploy.client.bundle import Bundle, open_bundle
from vl2v_deploy.client.checksums import CHECKSUMS, checksums_from_text
from vl2v_deploy.client.images import DEFAULT_LIMITS, Limits
from vl2v_deploy.errors import BundleError, one_line
from vl2v_deploy.regular_files import open_regular

MAX_ENTRIES = 10_000
MAX_CHECKSUMS_BYTES = 1_000_000
_CHUNK_BYTES = 1 << 20
_UNIX = 3  # ZipInfo.create_system of archives whose entries have Unix modes
_ENCRYPTED = 0x1
# zipfile unpacks whatever it has read of the others at once: a kilobyte can be gigabytes in memory
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def bundle_from(bundle: str | Path | Bundle, limits: Limits) -> tuple[Bundle, Path | None]:
    """The bundle, its checksums verified, and the directory it was unpacked to if it is a zip file."""
    if isinstance(bundle, Bundle):
        return bundle, None
    if not Path(bundle).is_file():
        return open_bundle(bundle), None
    unpacked = unpack_bundle(Path(bundle), limits)
    try:
        return replace(open_bundle(unpacked), zip=Path(bundle)), unpacked
    except BundleError as error:
        remove_unpacked(unpacked, os.getpid())
        raise BundleError(str(error).replace(str(unpacked), str(bundle))) from error


@contextmanager
def opened_bundle(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[Bundle]:
    """The bundle in a directory or zip file, its checksums verified; what was unpacked is removed at the end.

    Raises BundleError when it is missing, damaged, of another format, or an archive that is refused.
    """
    bundle, unpacked = bundle_from(path, limits)
    try:
        yield bundle
    finally:
        remove_unpacked(unpacked, os.getpid())


def remove_unpacked(folder: Path | None, owner: int) -> None:
    """Delete an unpacked bundle; in a forked process nothing, the files are its parent's."""
    if folder and os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_bundle(archive: Path, limits: Limits) -> Path:
    """A new private directory with the files of a zipped bundle; the caller removes it.

    The bundle is at the archive's root or in its one top folder. Only files that SHA256SUMS lists are
    unpacked; their hashes are checked when the directory is opened.

    Raises BundleError, with nothing left behind, when the file is no zip, holds no bundle, is larger than
    the limits allow, or has an entry that is a link, encrypted, there twice, named to land elsewhere or
    compressed by another method than deflate.
    """
    folder = Path(tempfile.mkdtemp(prefix="vl2v-bundle-"))  # readable by this user only
    try:
        with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
            _unpack(opened, archive, folder, limits)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        match error:
            case BundleError():
                raise
            case OSError():
                where = "" if error.filename in (None, str(archive)) else f" {error.filename}:"
                raise BundleError(
                    f"{archive}: cannot be unpacked:{where} {error.strerror or one_line(error)}"
                ) from error
            case zipfile.BadZipFile() | NotImplementedError() | EOFError() | ValueError():
                raise BundleError(
                    f"{archive}: is not a zip file that can be read: {one_line(error)}; copy the bundle again"
                ) from error
            case Exception() if type(error).__module__ == "zlib":  # its error derives from Exception alone
                raise BundleError(f"{archive}: is damaged: {one_line(error)}; copy it again") from error
        raise
    return folder


def _unpack(opened: zipfile.ZipFile, archive: Path, folder: Path, limits: Limits) -> None:
    entries = _entries(opened, archive)
    top = _top_of(entries, archive)
    room = limits.max_bundle_bytes
    listed = _read(opened, entries[f"{top}{CHECKSUMS}"], MAX_CHECKSUMS_BYTES, archive)
    try:
        text = listed.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{archive}: {CHECKSUMS} is not UTF-8") from error
    wanted = [CHECKSUMS, *checksums_from_text(text, f"{archive}: {CHECKSUMS}")]
    if missing := [name for name in wanted if f"{top}{name}" not in entries]:
        raise BundleError(f"{archive}: {missing[0]} is missing, though {CHECKSUMS} lists it; zip it again")
    declared = sum(entries[f"{top}{name}"].file_size for name in wanted)
    if declared > room:
        raise BundleError(
            f"{archive}: {declared} bytes unpacked, more than {room}: refused (Limits.max_bundle_bytes)"
        )
    for name in wanted:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(opened, entries[f"{top}{name}"], target)


def _entries(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Files by name; every entry is checked, also those that will not be unpacked."""
    found: dict[str, zipfile.ZipInfo] = {}
    for number, entry in enumerate(opened.infolist()):
        name = entry.filename
        if number >= MAX_ENTRIES:
            raise BundleError(f"{archive}: more than {MAX_ENTRIES} entries: refused")
        # ZipInfo cuts names at a NUL and turns the system's separators into slashes; the rest is ours
        if name != entry.orig_filename or "\\" in name or ":" in name or name.startswith("/"):
            raise BundleError(f"{archive}: entry {entry.orig_filename!r}: not a plain relative name: refused")
        if ".." in PurePosixPath(name).parts:
            raise BundleError(f"{archive}: entry {name!r}: leads out of the bundle: refused")
        kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == _UNIX else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BundleError(f"{archive}: entry {name!r}: a link or device: refused")
        if entry.flag_bits & _ENCRYPTED:
            raise BundleError(f"{archive}: entry {name!r}: is encrypted: zip the bundle without a password")
        if entry.compress_type not in _METHODS:
            raise BundleError(f"{archive}: entry {name!r}: is not compressed by deflate: zip it again")
        if entry.is_dir():
            continue
        if name in found:
            raise BundleError(f"{archive}: entry {name!r}: is in it twice: refused")
        found[name] = entry
    return found


def _top_of(entries: dict[str, zipfile.ZipInfo], archive: Path) -> str:
    """'' where the bundle is at the root, 'name/' where it is in a folder."""
    tops = [
        name.removesuffix(CHECKSUMS)
        for name in entries
        if PurePosixPath(name).name == CHECKSUMS and name.count("/") <= 1
    ]
    if len(tops) != 1:
        raise BundleError(
            f"{archive}: expected one bundle, at the root or in one folder; found {len(tops)} {CHECKSUMS}"
        )
    return tops[0]


def _read(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, most_bytes: int, archive: Path) -> bytes:
    with opened.open(entry) as packed:
        read = packed.read(most_bytes + 1)
    if len(read) > most_bytes:
        raise BundleError(f"{archive}: {entry.filename} is longer than {most_bytes} bytes: refused")
    return read


def _copy(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one file; zipfile stops at the length its entry declares (counted above), and checks the CRC."""
    with opened.open(entry) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, _CHUNK_BYTES)
