"""What was paid for lies where clearing a cache does not reach it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vl2v_deploy.data.cache import cache_dir, kept_dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VL2V_DEPLOY_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def test_it_is_not_in_the_cache_unless_one_folder_was_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not kept_dir("ledgers").is_relative_to(cache_dir())
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(home / "all"))
    assert kept_dir("ledgers") == home / "all" / "ledgers"


def test_what_was_in_the_cache_before_is_moved_once(home: Path) -> None:
    earlier = cache_dir() / "embeddings"
    earlier.mkdir()
    (earlier / "paid").write_text("answer")
    kept = kept_dir("embeddings")
    assert (kept / "paid").read_text() == "answer" and not earlier.exists()
    earlier.mkdir()  # by an older version, later: it is left alone
    assert kept_dir("embeddings") == kept and earlier.is_dir()


def test_what_cannot_be_moved_is_used_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = cache_dir() / "embeddings"
    earlier.mkdir()

    def other_disk(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", other_disk)
    assert kept_dir("embeddings") == earlier
