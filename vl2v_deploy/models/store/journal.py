"""Journals: answers of a teacher that are on disk at once, until a shard holds them.

<unique>.journal    a header with D, then records: magic, length, CRC-32, then n keys and n embeddings
.<unique>.writer    held by the process that writes it; who can take it knows that its writer is gone
.journals           held while a journal is started, or those of dead writers become shards

The room for a record is allocated before its query goes out, so that an answer that was paid for always
finds it; behind the last record there are zeros. What was appended is on the disk itself: neither a process
that is killed nor a machine that loses power loses it. What was on its way or being written then is reserved
in the ledger, and counts as possibly paid. Answers that came together are one record, with one sync.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vl2v_deploy.models.store.damage import DAMAGED, Damage
from vl2v_deploy.models.store.disk import on_disk
from vl2v_deploy.models.store.shards import KEY_BYTES, UNFINISHED, split_keys, sync_folder, write_shard

SUFFIX, WRITER = ".journal", ".writer"
_HEADER = struct.Struct("<8sI")
_RECORD = struct.Struct("<4sII")
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows
_MAGIC, _RECORD_MAGIC = b"VL2VJ\x00\x00\x01", b"\xabANS"


class Record(NamedTuple):
    """Answers that came together: their n keys in one string, and embeddings; float32 (n, D)."""

    keys: bytes
    rows: Tensor


class Journal:
    """A new journal in `folder`, with room for `rows` answers of one embedding each.

    Its methods raise DiskRefusal where the disk is full, read-only or fails.
    """

    def __init__(self, folder: Path, dim: int, rows: int) -> None:
        name = uuid.uuid4().hex
        self.path = folder / f"{name}{SUFFIX}"
        self.rows = self.room = 0  # embeddings in it; embeddings that it has room for
        self._dim = dim
        self._writer = FileLock(_writer_of(self.path), thread_local=False)
        with on_disk(self.path), FileLock(folder / ".journals"):
            self._writer.acquire()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY)
        self._end = _HEADER.size
        try:
            self.make_room(rows)
            with on_disk(self.path):
                os.write(self._file, _HEADER.pack(_MAGIC, dim))
                os.fsync(self._file)
                sync_folder(folder)
        except BaseException:  # nothing is in it
            with suppress(OSError):
                self.path.unlink()
            self._close()
            raise

    def make_room(self, rows: int) -> None:
        """Allocates what `rows` more embeddings than it holds take, whatever answers they come in."""
        needed = self._end + rows * (_RECORD.size + KEY_BYTES + 4 * self._dim)
        with on_disk(self.path):
            _allocate(self._file, needed)
        self.room = self.rows + rows

    def append(self, keys: Sequence[bytes], rows: Tensor) -> None:
        """Writes an answer, or several that came together; they are on the disk when this returns.

        rows: (n, D)
        """
        payload = b"".join(keys) + rows.float().contiguous().numpy().tobytes()
        record = _RECORD.pack(_RECORD_MAGIC, len(payload), zlib.crc32(payload)) + payload
        with on_disk(self.path):
            os.lseek(self._file, self._end, os.SEEK_SET)
            if os.write(self._file, record) != len(record):
                raise OSError("the record was cut short")
            # From here on it may be kept: where the sync fails, no later record is written over it.
            self._end += len(record)
            self.rows += len(keys)
            getattr(os, "fdatasync", os.fsync)(self._file)

    def fold(self) -> None:
        """Turns the journal into a shard, if it holds anything; if that fails, the next process does it."""
        try:
            _fold(self.path)
        finally:
            self._close()

    def _close(self) -> None:
        os.close(self._file)
        with suppress(OSError):  # `recover` removes it
            _writer_of(self.path).unlink(missing_ok=True)
        self._writer.release()


def recover(folder: Path) -> None:
    """Turns the journals of processes that are gone into shards, and removes what else they left.

    Raises Damage when a journal is damaged, after what is whole was saved; DiskRefusal when the disk is full,
    read-only or fails.
    """
    left = (SUFFIX, UNFINISHED, WRITER)
    if not folder.is_dir() or not any(path.suffix in left for path in folder.iterdir()):
        return
    problems: list[str] = []
    with on_disk(folder), FileLock(folder / ".journals"):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            with _writer_gone(path) as gone:
                if gone and path.exists():  # its writer has not folded it meanwhile
                    problems += _fold(path)
        _sweep(folder)
    if problems:
        raise Damage("; ".join(problems))


@contextmanager
def _writer_gone(path: Path) -> Iterator[bool]:
    """Whether nobody writes this journal any more; its lock is held meanwhile, and removed then."""
    writer = _writer_of(path)
    try:
        with FileLock(writer, timeout=0):
            yield True
            writer.unlink(missing_ok=True)
    except Timeout:
        yield False


def _sweep(folder: Path) -> None:
    """Removes what killed processes left beside their journals: half a shard, the lock of a writer.

    As long as a journal is folded it is there, and nobody starts one, or imports a shard, without the lock
    that is held here.
    """
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        if not unfinished.with_suffix(SUFFIX).exists():
            unfinished.unlink(missing_ok=True)
    for writer in folder.glob(f".*{WRITER}"):
        path = folder / f"{writer.stem[1:]}{SUFFIX}"
        if not path.exists():
            with _writer_gone(path):
                pass


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While the block writes a shard that no journal stands for, nobody takes it for what was left behind."""
    with on_disk(folder):
        lock = FileLock(folder / ".journals")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_whole(folder: Path) -> dict[bytes, Tensor]:
    """The embeddings, (D,) each, that the journals of a folder hold by now, whoever writes them."""
    found: dict[bytes, Tensor] = {}
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):  # a shard by now
            for keys, rows in read_journal(path)[0]:
                found.update(zip(split_keys(keys), rows, strict=True))
    return found


def read_journal(path: Path) -> tuple[list[Record], list[bytes]]:
    """The records that are whole, and the bytes of each damaged place between them.

    What is behind the last whole record is no damage: the answer was being written when its process ended.
    """
    content = path.read_bytes()
    if len(content) < _HEADER.size or not content.startswith(_MAGIC):
        # The header is on disk before a query goes out: without it there is nothing but what others wrote.
        return [], [content] if content.strip(b"\0") else []
    _, dim = _HEADER.unpack_from(content)
    records: list[Record] = []
    damaged: list[bytes] = []
    end = _HEADER.size
    for at, record in _records(content, dim):
        if at != end:
            damaged.append(content[end:at])
        records.append(record)
        end = at + _RECORD.size + len(record.keys) + 4 * record.rows.numel()
    return records, damaged


def _records(content: bytes, dim: int) -> Iterator[tuple[int, Record]]:
    """Each whole record and where it starts; a damaged place is searched for the next one."""
    each, at = KEY_BYTES + 4 * dim, content.find(_RECORD_MAGIC, _HEADER.size)
    while at >= 0 and at + _RECORD.size <= len(content):
        _, length, checksum = _RECORD.unpack_from(content, at)
        payload = content[at + _RECORD.size : at + _RECORD.size + length]
        step = 1
        if 0 < length == len(payload) and length % each == 0 and zlib.crc32(payload) == checksum:
            split = length // each * KEY_BYTES
            rows = np.frombuffer(payload[split:], dtype="<f4").reshape(-1, dim)
            yield at, Record(payload[:split], torch.from_numpy(rows.astype(np.float32)))
            step = _RECORD.size + length
        at = content.find(_RECORD_MAGIC, at + step)


def _fold(path: Path) -> list[str]:
    """Writes the shard of a journal and removes the journal; a line for each damaged place, set aside."""
    problems = []
    with on_disk(path):
        records, damaged = read_journal(path)
        for number, content in enumerate(damaged):
            aside = path.with_name(f"{path.stem}-{number}{SUFFIX}{DAMAGED}")
            aside.write_bytes(content)
            problems.append(
                f"{path}: {len(content)} bytes of answers are damaged, and were set aside as {aside.name}"
            )
        if records:
            # The name is the journal's, so that a fold that was interrupted is done again, not twice.
            write_shard(
                path.with_suffix(".safetensors"),
                b"".join(record.keys for record in records),
                torch.cat([record.rows for record in records]),
            )
        path.unlink()
    return problems


def _writer_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}{WRITER}")


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    at = os.lseek(file, 0, os.SEEK_END)
    os.write(file, bytes(max(size - at, 0)))
    os.lseek(file, 0, os.SEEK_SET)
