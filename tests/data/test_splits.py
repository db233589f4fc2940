"""DomainBed's splits, against its rule written out anew and torchvision's own ImageFolder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tests.helpers.domain_folders import CLASSES, DOMAINS
from vl2v_deploy.data.domains import (
    DomainSet,
    evaluated_split,
    evaluation_samples,
    load_domains,
    oracle_samples,
)
from vl2v_deploy.data.splits import domainbed_splits
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe, SplitRecipe


def load(root: Path, skip_bad: bool = False, **options: object) -> DomainSet:
    tree = {"root": str(root), "target": "photo", "split": "domainbed"} | options
    return load_domains(DataRecipe.model_validate(tree), skip_bad=skip_bad)


def domainbed(root: Path, trial_seed: int, in_domain: str) -> tuple[set[Path], set[Path]]:
    """The files of a domain's `in` and `out`, as METHOD's evaluation protocol says them."""
    index = sorted(folder.name for folder in root.iterdir()).index(in_domain)
    files = [Path(path) for path, _ in ImageFolder(str(root / in_domain)).samples]
    text = f"({trial_seed}, {index})"  # a Python tuple's text
    seed = int.from_bytes(hashlib.md5(text.encode()).digest(), "big") & 0x7FFFFFFF
    shuffled = list(range(len(files)))
    np.random.RandomState(seed).shuffle(shuffled)
    fifth = len(files) * 2 // 10
    return {files[i] for i in shuffled[fifth:]}, {files[i] for i in shuffled[:fifth]}


def awkward(root: Path) -> None:
    """Names whose order depends on how one sorts, folders in folders, files that ImageFolder leaves out."""
    image = Image.fromarray(np.full((4, 4, 3), 7, np.uint8))
    circle = root / "photo" / "circle"
    for name in ("Z.png", "a-b/1.png", "a/1.png", "a/b/0.png", "a b/1.png", "10.JPG", "deep.ppm", "out.gif"):
        (circle / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(circle / name)
    (circle / "notes.txt").write_text("no image")


def sides(domain_set: DomainSet, domain: str) -> tuple[set[Path], set[Path]]:
    return (
        {sample.path for sample in domain_set.select({domain}, "train")},
        {sample.path for sample in domain_set.select({domain}, "val")},
    )


@pytest.mark.parametrize("trial_seed", [0, 1, 2, 41])
def test_every_image_stands_where_domainbed_has_it(domain_folder: Path, trial_seed: int) -> None:
    awkward(domain_folder)
    split = {"protocol": "domainbed", "seed": trial_seed}
    domain_set = load(domain_folder, split=split)
    turned = load(domain_folder, split=split, classes=list(reversed(CLASSES)))
    for domain in DOMAINS:
        expected = domainbed(domain_folder, trial_seed, domain)
        assert sides(domain_set, domain) == expected
        assert sides(turned, domain) == expected
    assert {sample.split for sample in domain_set.samples} == {"train", "val"}
    assert "out.gif" not in {sample.path.name for sample in domain_set.samples}
    assert turned.classes[turned.samples[0].label] == turned.samples[0].path.parent.name


def test_sides_move_with_the_seed_and_the_domain() -> None:
    def held_out(seed: int, domain: int) -> list[int]:
        split = domainbed_splits(
            100, domain, SplitRecipe.model_validate({"protocol": "domainbed", "seed": seed})
        )
        return [image for image, side in enumerate(split) if side == "val"]

    assert len(held_out(0, 0)) == 20
    assert held_out(0, 0) == held_out(0, 0)
    assert held_out(0, 0) != held_out(1, 0) != held_out(0, 1) != held_out(0, 0)


def test_accuracy_is_measured_as_domainbed_does(domain_folder: Path) -> None:
    domain_set = load(domain_folder)
    trained = {sample.path for sample in domain_set.select(domain_set.sources("photo"), "train")}
    measured: set[Path] = set()
    for domain in DOMAINS:
        inside, outside = domainbed(domain_folder, 0, domain)
        samples = {sample.path for sample in evaluation_samples(domain_set, domain, "photo")}
        assert samples == (inside if domain == "photo" else outside)
        assert evaluated_split(domain_set, domain, "photo") == ("in" if domain == "photo" else "out")
        measured |= samples
    assert trained and not trained & measured
    assert {s.path for s in oracle_samples(domain_set, "photo")} == domainbed(domain_folder, 0, "photo")[1]


def test_seeded_splits_say_what_they_are_measured_on(domain_folder: Path) -> None:
    domain_set = load(domain_folder, split="seeded")
    assert [evaluated_split(domain_set, d, "photo") for d in DOMAINS] == ["test", "test", "all"]
    oracle = oracle_samples(domain_set, "photo")
    assert {(sample.domain, sample.split) for sample in oracle} == {("photo", "val")}


def test_a_skipped_image_moves_no_other(domain_folder: Path) -> None:
    before = load(domain_folder)
    (domain_folder / "ink" / "circle" / "0.png").write_bytes(b"damaged")
    with pytest.raises(BadImagesError):
        load(domain_folder)
    after = load(domain_folder, skip_bad=True)
    assert after.skipped == ("ink/circle/0.png",)
    split_of = {sample.path: sample.split for sample in before.samples}
    assert len(after.samples) == len(before.samples) - 1
    assert all(split_of[sample.path] == sample.split for sample in after.samples)


def test_domains_too_small_and_data_with_groups_are_refused(domain_folder: Path) -> None:
    with pytest.raises(DataError, match="both sides; use protocol: seeded"):
        load_domains(
            DataRecipe.model_validate({"root": BUILTIN_DATA, "target": "noto", "split": "domainbed"})
        )
    for path in (domain_folder / "ink").rglob("[2-9].png"):
        path.unlink()
    with pytest.raises(DataError, match="ink: the split leaves no val image"):
        load(domain_folder)  # a fifth of four images is none
    without = load(domain_folder, target="ink")  # as a target it is measured on its `in`
    with pytest.raises(DataError, match="no val image for an oracle"):
        oracle_samples(without, "ink")
