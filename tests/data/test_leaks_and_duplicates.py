"""Copies of one image: on one side of the split, never trained on where one is held out, always counted."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vl2v_deploy.data import neighbours
from vl2v_deploy.data.copies import near_copies
from vl2v_deploy.data.domains import DomainSet, data_fingerprint, evaluation_samples, load_domains
from vl2v_deploy.data.looks import LOOK_BYTES, first_same_picture
from vl2v_deploy.data.notices import folder_notices, leak_notices
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.recipe import BUILTIN_DATA, DataRecipe, Recipe, SplitRecipe, recipe_sha256


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def load(root: Path, *, skip_bad: bool = False, **options: object) -> DomainSet:
    data = DataRecipe.model_validate({"root": str(root), "target": "photo"} | options)
    return load_domains(data, skip_bad=skip_bad)


def trained_and_held_out(domain_set: DomainSet, target: str = "photo") -> tuple[set[str], set[str]]:
    """The contents that a run learns from, and those that say how good it is."""
    sources = domain_set.sources(target)
    trained = {s.sha256 for split in ("train", "val") for s in domain_set.select(sources, split)}
    measured = [s for domain in domain_set.domains for s in evaluation_samples(domain_set, domain, target)]
    return trained, {sample.sha256 for sample in measured}


def copy_all(folder: Path, prefix: str, to: Path | None = None) -> None:
    for image in sorted(folder.glob("*.png")):
        shutil.copyfile(image, (to or folder) / f"{prefix}{image.name}")


def test_copies_inside_a_domain_are_on_one_side(domain_folder: Path) -> None:
    copy_all(domain_folder / "ink/circle", "copy-")
    domain_set = load(domain_folder)
    sides = defaultdict(set)
    for sample in domain_set.samples:
        sides[sample.sha256].add(sample.split)
    assert all(len(side) == 1 for side in sides.values()) and len(sides) == 60
    assert domain_set.copies.images == 20 and not domain_set.left_out
    assert "20 images have the same bytes" in folder_notices(domain_set)[0]


def test_copies_in_two_source_domains_are_on_one_side(domain_folder: Path) -> None:
    copy_all(domain_folder / "ink/circle", "ink-", domain_folder / "paint/circle")
    trained, held_out = trained_and_held_out(load(domain_folder))
    assert not trained & held_out


def test_a_source_image_that_is_the_targets_is_left_out(domain_folder: Path) -> None:
    before = load(domain_folder)
    copy_all(domain_folder / "photo/circle", "photo-", domain_folder / "ink/circle")
    domain_set = load(domain_folder)
    trained, held_out = trained_and_held_out(domain_set)
    assert not trained & held_out
    assert len(evaluation_samples(domain_set, "photo", "photo")) == 20  # the target's stay
    assert len(before.samples) == 60 and len(domain_set.samples) + len(domain_set.left_out) == 70
    names = {domain_set.name(sample) for sample in domain_set.left_out}
    assert names == set(domain_set.copies.held_out) and all("ink/circle/photo-" in name for name in names)
    [notice] = leak_notices(domain_set, "photo", ())
    assert f"{len(names)} image(s)" in notice and "left out" in notice
    # of a target that knows nothing of them they are images like any others
    assert load(domain_folder, target="ink").copies.held_out
    assert not load(domain_folder, target="each").left_out


def test_a_source_whose_images_are_all_held_out_is_refused_as_such(domain_folder: Path) -> None:
    for name in ("circle", "square"):
        shutil.rmtree(domain_folder / "ink" / name)
        shutil.copytree(domain_folder / "photo" / name, domain_folder / "ink" / name)
    with pytest.raises(DataError, match="copies of held-out images") as caught:
        load(domain_folder)
    assert str(domain_folder / "ink") in str(caught.value) and "too few" not in str(caught.value)


def test_copies_allowed_are_used_and_counted(domain_folder: Path) -> None:
    copy_all(domain_folder / "photo/circle", "photo-", domain_folder / "ink/circle")
    domain_set = load(domain_folder, split={"duplicates": "allow"})
    trained, held_out = trained_and_held_out(domain_set)
    assert len(domain_set.samples) == 70 and trained & held_out
    assert domain_set.copies.allowed and domain_set.copies.held_out
    assert "too high" in leak_notices(domain_set, "photo", ())[0]


def test_data_are_the_same_for_every_target_whatever_it_leaves_out(domain_folder: Path) -> None:
    copy_all(domain_folder / "photo/circle", "photo-", domain_folder / "ink/circle")
    found = [load(domain_folder, target=target) for target in ("photo", "ink", "paint", "each")]
    assert len({data_fingerprint(domain_set) for domain_set in found}) == 1
    assert len({len(domain_set.left_out) for domain_set in found}) > 1


def test_copies_of_fixed_groups_leave_the_training_side(domain_folder: Path) -> None:
    (domain_folder / "ink/circle/again.png").write_bytes((domain_folder / "ink/circle/0.png").read_bytes())
    rows = ["image,group,split"]
    for image in sorted(domain_folder.rglob("*.png")):
        name = image.relative_to(domain_folder).as_posix()
        side = "test" if image.stem in "01" else "val" if image.stem == "2" else "train"
        rows.append(f"{name},{name},{side}")
    groups = domain_folder.parent / "groups.csv"
    groups.write_text("\n".join(rows))
    domain_set = load(domain_folder, split={"groups": str(groups)})
    assert domain_set.copies.held_out == ("ink/circle/again.png",)


def test_duplicate_content_of_two_labels_is_refused_or_dropped_aloud(domain_folder: Path) -> None:
    wrong = domain_folder / "ink/square/wrong.png"
    shutil.copyfile(domain_folder / "ink/circle/0.png", wrong)
    with pytest.raises(BadImagesError) as caught:
        load(domain_folder)
    problems = dict(caught.value.problems)
    assert problems.keys() == {str(wrong), str(domain_folder / "ink/circle/0.png")}
    assert "ink/circle/0.png" in problems[str(wrong)] and "--skip-bad" in str(caught.value)
    domain_set = load(domain_folder, skip_bad=True)
    assert set(domain_set.copies.two_labels) == {"ink/circle/0.png", "ink/square/wrong.png"}
    assert set(domain_set.skipped) == set(domain_set.copies.two_labels)
    assert not {s.path for s in domain_set.samples} & {Path(path) for path in problems}
    assert any("copies in another class" in notice for notice in folder_notices(domain_set))
    assert len(load(domain_folder, split={"duplicates": "allow"}).samples) == 61


def test_domainbed_keeps_its_splits_and_counts_duplicates(domain_folder: Path) -> None:
    copy_all(domain_folder / "photo/circle", "photo-", domain_folder / "ink/circle")
    shutil.copyfile(domain_folder / "ink/circle/0.png", domain_folder / "ink/square/wrong.png")
    domain_set = load(domain_folder, split="domainbed")
    assert len(domain_set.samples) == 71 and not domain_set.left_out
    assert len(domain_set.copies.held_out) >= 8 and len(domain_set.copies.two_labels) == 2
    strict = load(domain_folder, split={"protocol": "domainbed", "duplicates": "one_side"}, skip_bad=True)
    assert strict.left_out and not trained_and_held_out(strict)[0] & {
        s.sha256 for s in evaluation_samples(strict, "photo", "photo")
    }


def test_duplicates_allowed_or_not_are_two_recipes() -> None:
    def recipe(split: object) -> Recipe:
        data = {"root": "x", "target": "y", "split": split}
        teacher = {"model": "ViT-B-16", "pretrained": "openai"}
        return Recipe.model_validate({"data": data, "teacher": teacher, "student": {"backbone": "resnet50"}})

    for protocol, default in (("seeded", "one_side"), ("domainbed", "allow")):
        assert SplitRecipe.model_validate(protocol).duplicates == default
        other = "allow" if default == "one_side" else "one_side"
        plain = recipe_sha256(recipe({"protocol": protocol}))
        assert recipe_sha256(recipe({"protocol": protocol, "duplicates": default})) == plain
        assert recipe_sha256(recipe({"protocol": protocol, "duplicates": other})) != plain


def smooth(seed: int) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((48, 48), Image.Resampling.BICUBIC)


def test_near_leaks_are_reported_and_trained_on(domain_folder: Path) -> None:
    for number in range(20):
        smooth(number).save(domain_folder / f"photo/circle/smooth-{number}.png")
    for number in range(5):
        smooth(number).save(domain_folder / f"ink/circle/smooth-{number}.jpg", quality=85)
    domain_set = load(domain_folder)
    near = near_copies(domain_set, "photo")
    trained = [s for s in domain_set.select({"ink"}, "train") if "smooth" in s.path.name]
    assert len(trained) >= 2 and {pair[0] for pair in near} == set(trained)
    assert all(one.path.stem == other.path.stem and other.domain == "photo" for one, other in near)
    [notice] = leak_notices(domain_set, "photo", near)
    assert f"{len(near)} training image(s)" in notice and "ink/circle/smooth-" in notice


def test_emojidgs_near_leaks_are_counted_and_nothing_is_left_out() -> None:
    data = DataRecipe(root=BUILTIN_DATA, target="noto")
    domain_set = load_domains(data)
    near = near_copies(domain_set, "noto")
    assert 0 < len(near) <= 9 and domain_set.copies.images == 0 and not domain_set.left_out
    assert all(one.label != -1 and one.group != other.group for one, other in near)


def test_near_leaks_are_those_of_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, LOOK_BYTES))
    noise = rng.normal(0, rng.choice([2, 8], (300, 1)), (300, LOOK_BYTES))
    noisy = np.clip(base[rng.integers(0, 40, 300)] + noise, 0, 255)
    looks = [row.astype(np.uint8).tobytes() for row in noisy]
    others = [row.astype(np.uint8).tobytes() for row in np.clip(base + 2, 0, 255)]
    alone = [
        next((row for row, other in enumerate(others) if first_same_picture([look], [other]) == [0]), None)
        for look in looks
    ]
    monkeypatch.setattr(neighbours, "FEW_PAIRS", 4)
    assert first_same_picture(looks, others) == alone
    assert 50 < alone.count(None) < 250
