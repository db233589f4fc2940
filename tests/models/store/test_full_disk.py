"""A disk that is full, fails or is read-only stops a purchase before more is asked; nothing is paid twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.buyer import DIM, WritingTeacher
from tests.helpers.fake_vendor import fake_vendor, pixels_sha256
from tests.helpers.vendor_recipes import vendor_recipe, vendor_teacher
from tests.models.store.test_journal import answer
from tests.models.test_vendor_money import make_images
from vl2v_deploy.models.store import buying, journal, store
from vl2v_deploy.models.store.canaries import CANARIES
from vl2v_deploy.models.store.disk import DiskRefusal
from vl2v_deploy.models.store.shards import write_shard
from vl2v_deploy.models.store.store import EmbeddingStore

CODES = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "failing": errno.EIO, "read-only": errno.EROFS}
Break = Callable[[pytest.MonkeyPatch, OSError], None]


def raising(error: OSError) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def no_room(patch: pytest.MonkeyPatch, error: OSError) -> None:
    patch.setattr(journal, "_allocate", raising(error))


def no_sync_of(*suffixes: str) -> Break:
    """The sync of such files fails, when what was written is only with the operating system."""

    def broken(patch: pytest.MonkeyPatch, error: OSError) -> None:
        for name in ("fsync", "fdatasync"):
            real = getattr(os, name)

            def sync(file: int, real: Callable[[int], None] = real) -> None:
                if Path(f"/proc/self/fd/{file}").readlink().suffix in suffixes:
                    raise error
                real(file)

            patch.setattr(os, name, sync)

    return broken


def no_lock(patch: pytest.MonkeyPatch, error: OSError) -> None:
    patch.setattr(buying.FileLock, "acquire", raising(error))


BREAKS: dict[str, Break] = {
    "room": no_room,
    "journal": no_sync_of(".journal"),
    "shard": no_sync_of(".unfinished"),
    "lock": no_lock,
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the system for the name of a file")
@pytest.mark.parametrize("where", BREAKS)
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_disk_that_refuses_stops_in_one_line_and_what_was_answered_is_kept(
    where: str, code: int, tmp_path: Path
) -> None:
    paths = make_images(tmp_path / "images", 24)
    teacher = WritingTeacher(tmp_path / "paid.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD_SIZE", 8)
        BREAKS[where](patch, OSError(code, os.strerror(code)))
        with pytest.raises(DiskRefusal, match=r"cannot be kept .* so no more is asked") as caught:
            EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
    said = str(caught.value)
    assert "\n" not in said and str(tmp_path / "store") in said and os.strerror(code) in said
    assert ("read-only" in said) == (code == errno.EROFS)
    asked = len(teacher.paid.read_text().split()) if teacher.paid.exists() else 0
    assert asked <= {"room": 0, "lock": 0, "journal": 0, "shard": 12}[where]
    again = EmbeddingStore(tmp_path / "store", teacher)
    rows = again.embed(paths, "")
    assert again.queries == 24 - asked  # nothing that was kept is bought again
    assert set(Counter(teacher.paid.read_text().split()).values()) == {1}
    assert rows.shape == (24, DIM)


def test_disk_that_fails_after_an_answer_keeps_it_and_asks_nothing_more(tmp_path: Path) -> None:
    paths = make_images(tmp_path / "images", 24)
    teacher = WritingTeacher(tmp_path / "paid.txt")
    real, error = os.fdatasync, OSError(errno.EIO, os.strerror(errno.EIO))
    synced: list[int] = []

    def sync(file: int) -> None:
        real(file)
        synced.append(file)
        if len(synced) > 2:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", sync)
        with pytest.raises(DiskRefusal):
            EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
    assert len(teacher.paid.read_text().split()) == 12
    again = EmbeddingStore(tmp_path / "store", teacher)
    again.embed(paths, "")
    assert again.queries == 12  # the third answer too was written, though its sync failed


def test_disk_without_locks_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems are."""
    paths = make_images(tmp_path / "images", 4)
    no_lock(monkeypatch, OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)))
    with pytest.raises(DiskRefusal, match="has no locks") as caught:
        EmbeddingStore(tmp_path / "store", WritingTeacher(tmp_path / "paid.txt")).embed(paths, "")
    assert "\n" not in str(caught.value) and not (tmp_path / "paid.txt").exists()


def test_disk_too_full_for_a_shard_is_read_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = make_images(tmp_path / "images", 12)
    teacher = WritingTeacher(tmp_path / "paid.txt")
    no_sync_of(".unfinished")(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(DiskRefusal):
        EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
    again = EmbeddingStore(tmp_path / "store", teacher)
    rows = again.embed(paths, "")
    assert again.queries == 0 and "journals are read as they are" in capfd.readouterr().err
    monkeypatch.undo()
    assert torch.equal(EmbeddingStore(tmp_path / "store", teacher).embed(paths, ""), rows)
    assert len(teacher.paid.read_text().split()) == 12


def test_disk_full_at_the_canaries_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_images(tmp_path / "images", 20)
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        teacher, _ = vendor_teacher(tmp_path, vendor_recipe("openai", vendor.url("openai")))
        with monkeypatch.context() as patch:
            no_sync_of(".safetensors", ".unfinished")(patch, OSError(errno.ENOSPC, "no space"))
            with pytest.raises(DiskRefusal, match="canaries") as caught:
                EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
        assert "\n" not in str(caught.value) and not vendor.bill()
        EmbeddingStore(tmp_path / "store", teacher).embed(paths[:18], "")
        assert len(vendor.bill()) == CANARIES + 18
        with monkeypatch.context() as patch:  # nor are they asked again where there is no room for the images
            no_room(patch, OSError(errno.ENOSPC, "no space"))
            with pytest.raises(DiskRefusal):
                EmbeddingStore(tmp_path / "store", teacher).embed(paths, "")
        assert len(vendor.bill()) == CANARIES + 18


def test_disk_full_at_an_import_is_an_error_of_ours(tmp_path: Path) -> None:
    keys, rows = answer(0, 4)
    with pytest.MonkeyPatch.context() as patch:
        no_sync_of(".unfinished")(patch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        with pytest.raises(DiskRefusal):
            write_shard(tmp_path / "a.safetensors", b"".join(keys), rows)
    assert not list(tmp_path.iterdir())


def test_disk_really_full_pays_once_for_everything_however_little_room_there_is(tmp_path: Path) -> None:
    """On a tmpfs, where the system lets a user mount one."""
    paths = make_images(tmp_path / "images", 90)
    (tmp_path / "disk").mkdir()
    with fake_vendor(tmp_path / "vendor", dimensions=256) as vendor:
        module = "tests.helpers.full_disk_buyer"
        command = ["unshare", "-rm", sys.executable, "-m", module, str(tmp_path), vendor.url("openai")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
        if "unshare" in result.stderr or "mount" in result.stderr:
            pytest.skip(f"no tmpfs of one's own here: {result.stderr.strip()[-200:]}")
        assert result.returncode == 0, result.stderr
        bill = Counter(item.sha256 for item in vendor.bill() if item.kind == "image")
    tries = [json.loads(line) for line in result.stdout.splitlines()]
    errors = [each["error"] for each in tries if each["error"]]
    assert len(errors) >= 10 and all("\n" not in error for error in errors), errors
    assert all("more is asked" in error and str(tmp_path / "disk") in error for error in errors), errors
    assert sum("No space left" in error for error in errors) >= 5, errors
    assert not tries[-1]["error"] and not tries[len(tries) // 2 - 1]["error"]
    assert {bill[pixels_sha256(Image.open(path).convert("RGB"))] for path in paths} == {1}
    local = Counter((tmp_path / "paid.txt").read_text().split())
    assert len(local) == 90 and set(local.values()) == {1}
