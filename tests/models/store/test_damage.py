"""What is read back is checked: damage is set aside, said, and bought again only when the user agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.helpers.buyer import WritingTeacher
from tests.models.store.test_journal import DIM, answer, held, written
from vl2v_deploy.cli.main import cli
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.damage import Damage
from vl2v_deploy.models.store.journal import Journal, recover
from vl2v_deploy.models.store.shards import read_rows, write_shard
from vl2v_deploy.models.store.stats import store_stats
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.protocol import Price


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02d}.png")
    return sorted((tmp_path / "images").iterdir())


def a_store(paid: Path, price: Price | None) -> EmbeddingStore:
    teacher = WritingTeacher(paid)
    teacher.price = price
    return EmbeddingStore(store_root(), teacher)


def flip(shard: Path) -> None:
    """A bit of an embedding, as a bad disk does."""
    content = bytearray(shard.read_bytes())
    content[content.index(load_file(shard)["embedding"].numpy().tobytes()) + 3] ^= 0x40
    shard.write_bytes(content)


def test_damage_of_paid_embeddings_is_bought_again_only_when_the_user_agrees(
    images: list[Path], tmp_path: Path
) -> None:
    paid = tmp_path / "paid.txt"
    whole = a_store(paid, Price(1.0)).embed(images)
    [shard] = store_root().glob("*/*.safetensors")
    kept = shard.read_bytes()
    flip(shard)
    with pytest.raises(ModelError, match=f"{shard.name}: damaged .* set aside .*repair --buy-again") as found:
        a_store(paid, Price(1.0)).embed(images)
    with pytest.raises(ModelError, match=r"nothing is bought.* --buy-again") as refused:
        a_store(paid, Price(1.0)).embed(images)
    assert all("\n" not in str(caught.value) for caught in (found, refused))
    assert len(paid.read_text().split()) == 12
    [stats] = store_stats(store_root())
    assert (stats.embeddings, stats.damaged) == (0, 1)

    said = CliRunner().invoke(cli, ["teacher", "repair"])
    assert said.exit_code == 1 and f"{shard.name}.damaged: set aside" in said.output
    shard.write_bytes(kept)  # from a backup: what is held is read, the part stays until it is given up
    assert torch.equal(a_store(paid, Price(1.0)).embed(images), whole)
    shard.unlink()
    agreed = CliRunner().invoke(cli, ["teacher", "repair", "--buy-again"])
    assert agreed.exit_code == 0, agreed.output
    assert torch.equal(a_store(paid, Price(1.0)).embed(images), whole)
    assert len(paid.read_text().split()) == 24
    assert CliRunner().invoke(cli, ["teacher", "repair"]).exit_code == 0


def test_damage_of_a_free_teacher_is_said_and_computed_again(
    images: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paid = tmp_path / "paid.txt"
    whole = a_store(paid, None).embed(images)
    for number, damage in enumerate((flip, lambda shard: shard.write_bytes(b"torn"))):
        [shard] = store_root().glob("*/*.safetensors")
        damage(shard)
        assert torch.equal(a_store(paid, None).embed(images), whole)
        assert shard.name in (said := capfd.readouterr().err) and "asked again" in said
        assert len(paid.read_text().split()) == 12 * (2 + number)
        assert shard.with_name(f"{shard.name}.damaged").exists()


def test_damage_is_found_by_repair_wherever_it_is(images: list[Path], tmp_path: Path) -> None:
    a_store(tmp_path / "paid.txt", Price(1.0)).embed(images)
    [shard] = store_root().glob("*/*.safetensors")
    flip(shard)  # which neither keys nor header show
    said = CliRunner().invoke(cli, ["teacher", "repair"])
    assert said.exit_code == 1 and "0 embeddings are whole" in said.output and "checksum" in said.output


def test_damage_not_finite_is_refused_even_with_its_checksum(tmp_path: Path) -> None:
    keys, rows = answer(0, 4)
    rows[2, 5] = float("nan")
    write_shard(tmp_path / "a.safetensors", b"".join(keys), rows)
    with pytest.raises(Damage, match="not finite"):
        read_rows(tmp_path / "a.safetensors", [2])


def test_damage_shards_of_earlier_versions_are_read(images: list[Path], tmp_path: Path) -> None:
    whole = a_store(tmp_path / "paid.txt", Price(1.0)).embed(images)
    [shard] = store_root().glob("*/*.safetensors")
    save_file(load_file(shard), shard)  # without checksums
    store = a_store(tmp_path / "paid.txt", Price(1.0))
    assert torch.equal(store.embed(images), whole) and store.queries == 0


def test_kill_leaves_nothing_behind_that_is_not_removed(tmp_path: Path) -> None:
    """Half a shard of an import, and the lock of a writer that had not begun; what is in use stays."""
    living = Journal(tmp_path, DIM, 4)
    living.append(*answer(0, 2))
    for name in ("dead.unfinished", ".dead.writer"):
        (tmp_path / name).write_bytes(b"half")
    recover(tmp_path)
    assert not list(tmp_path.glob("*.unfinished"))
    assert [path.name for path in tmp_path.glob(".*.writer")] == [f".{living.path.stem}.writer"]
    living.fold()
    assert len(held(tmp_path)) == 2


def test_kill_while_a_shard_was_written_is_made_up_for(tmp_path: Path) -> None:
    path, answers = written(tmp_path)
    path.with_suffix(".unfinished").write_bytes(b"half a shard")
    recover(tmp_path)
    assert held(tmp_path).keys() == {key for keys, _ in answers for key in keys}
    assert not list(tmp_path.glob("*.unfinished"))
