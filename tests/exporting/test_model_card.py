"""README.md of a bundle: what it says is the manifest's, and no name in it becomes markup."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.helpers.tiny_bundle import CACHE, make_bundle
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import open_bundle
from vl2v_deploy.client.manifest import Manifest
from vl2v_deploy.client.run_facts import CopyFacts, Terms, UnlabelledFacts
from vl2v_deploy.exporting.finished.relabel import relabel_bundle
from vl2v_deploy.exporting.model_card import CARD, model_card

HOSTILE = ("| # a", "<img src=x onerror=alert(1)>", "[x](javascript:y)", "two\nlines\n# head", "`*b*`")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def rows_of(card: str) -> dict[str, list[str]]:
    """Cells by the first one, of every table."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in card.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_card_says_what_the_manifest_says(bundle: Path, manifest: Manifest) -> None:
    card = (bundle / CARD).read_text()
    assert card == model_card(manifest)
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-classification"
    rows = rows_of(card)
    accuracy, run = manifest.precisions["fp32"].accuracy, manifest.run
    assert accuracy and run and run.data.images and run.data.evaluated
    assert rows["target, OOD"] == [f"{100 * accuracy.ood:.1f}"]
    assert rows["sources, ID, mean"] == [f"{100 * accuracy.id:.1f}"]
    ink = run.data.images["ink"]
    counts = [ink["train"], ink["val"], ink["test"], run.data.evaluated["ink"]]
    assert rows["ink"] == ["source", *map(str, counts)]
    assert rows["photo"][0] == "target"
    assert manifest.accuracy and manifest.accuracy.teacher
    assert rows["zero-shot teacher"][0] == f"{100 * manifest.accuracy.teacher['photo']:.1f}"
    assert rows["`student.onnx`"][:2] == ["fp32", f"{manifest.precisions['fp32'].bytes / 1e6:.1f}"]
    for part in ("circle, square", "VL2V-ADiP", "2310.08255", manifest.preprocessing, run.recipe_sha256):
        assert part in card


def test_it_is_hashed_as_every_file_and_inspect_names_it(bundle: Path, manifest: Manifest) -> None:
    digest = hashlib.sha256((bundle / CARD).read_bytes()).hexdigest()
    assert manifest.files[CARD].sha256 == digest
    assert f"{digest}  {CARD}" in (bundle / "SHA256SUMS").read_text().splitlines()
    result = CliRunner().invoke(cli, ["inspect", str(bundle)])
    assert result.exit_code == 0 and f"model card: {CARD}" in result.output


def test_hostile_names_stay_text(manifest: Manifest) -> None:
    run = manifest.run
    assert run and run.data.images and manifest.accuracy
    bad = HOSTILE[1]
    data = replace(run.data, images={**run.data.images, HOSTILE[0]: {"train": 1}, HOSTILE[3]: {"val": 2}})
    teacher = replace(run.teacher, identity=bad, terms=Terms(HOSTILE[2], "2026-11-28", HOSTILE[4]))
    student = replace(manifest.student, backbone=bad, method=HOSTILE[3])
    hostile = replace(
        manifest, classes=HOSTILE, run=replace(run, data=data, teacher=teacher), student=student
    )
    card, plain = model_card(hostile), model_card(manifest)
    body = card.split("---", 2)[2]
    assert "<" not in body and "](" not in body.replace("\\](", "")
    assert [line for line in card.splitlines() if line.startswith("#")][1:] == [
        line for line in plain.splitlines() if line.startswith("#")
    ][1:]
    assert (
        len({len(re.split(r"(?<!\\)\|", line)) for line in body.splitlines() if "evaluated on" in line}) == 1
    )
    assert rows_of(card)[r"\| # a"] == ["source", "1", "0", "0", "-"]


def test_copies_and_left_out_images_are_counted(manifest: Manifest) -> None:
    run = manifest.run
    assert run
    copies = CopyFacts(images=9, allowed=False, near=4, two_labels=("a",), held_out=("b", "c"))
    dirty = replace(
        manifest, run=replace(run, data=replace(run.data, copies=copies, skipped=("x", "y", "z")))
    )
    card = model_card(dirty)
    for part in ("cannot be used: 3", "too: 9; of them 1 under", "and 2 of a source", "held-out one: 4"):
        assert part in card
    assert "were left out" in card and "without labels" not in card
    adapted = replace(run.data, unlabelled=UnlabelledFacts(images=70, of_target=30))
    adapted_card = model_card(replace(manifest, run=replace(run, data=adapted)))
    assert "trained on, too: 70, of them 30 of the target domain" in adapted_card
    # images of the target were trained on: nothing in the card calls it unseen
    assert rows_of(adapted_card)["photo"][0] == "target, adapted to"
    assert "target, OOD" in card and "target, OOD" not in adapted_card
    assert "used all the same" in model_card(
        replace(dirty, run=replace(run, data=replace(run.data, copies=replace(copies, allowed=True))))
    )


def test_a_target_that_weights_were_selected_on_is_not_called_unseen(manifest: Manifest) -> None:
    run = manifest.run
    assert run and run.selection == "source_val"  # as the run's record has it
    oracle = replace(run, selection="oracle (target)")
    adapted = replace(run.data, unlabelled=UnlabelledFacts(images=70, of_target=30))
    for seen, role in (
        (oracle, "target, weights selected on"),
        (replace(oracle, data=adapted), "target, adapted to, weights selected on"),
    ):
        card = model_card(replace(manifest, run=seen))
        assert rows_of(card)["photo"][0] == role and role in rows_of(card)
        assert "OOD" not in card and "whose labels were used" in card
    card = model_card(replace(manifest, run=replace(run, data=adapted)))
    assert "OOD" not in card and "whose labels were used" not in card
    assert "OOD" in model_card(manifest) and "whose labels were used" not in model_card(manifest)


def test_a_relabelled_bundle_has_a_card_of_its_own(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("triangle\nhexagon\nstar\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path / "cache"))
        manifest = relabel_bundle(bundle, tmp_path / "names.txt", tmp_path / "relabelled")
    card = (tmp_path / "relabelled" / CARD).read_text()
    assert card == model_card(open_bundle(tmp_path / "relabelled").manifest)
    assert CARD in open_bundle(tmp_path / "relabelled").manifest.files
    assert "triangle, hexagon, star" in card and "Not known for these classes" in card
    assert "circle, square" in card and manifest.relabelled  # what it was distilled for
