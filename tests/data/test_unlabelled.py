"""Unlabelled images: where they are found, and that no held-out image is among them."""

from __future__ import annotations

import hashlib
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.domain_folders import make_domain_folder
from vl2v_deploy.data.domains import DomainSet, Sample, evaluation_samples, load_domains
from vl2v_deploy.data.looks import first_same_picture, look_of
from vl2v_deploy.data.unlabelled import (
    UNLABELLED,
    Unlabelled,
    load_unlabelled,
    require_not_held_out,
    split_held_out,
)
from vl2v_deploy.errors import BadImagesError, DataError, RecipeError
from vl2v_deploy.recipe import BUILTIN_DATA, BUILTIN_UNLABELLED, DataRecipe, SplitRecipe, load_recipe


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def picture(seed: int, side: int = 48) -> Image.Image:
    """A smooth picture, as photographs and drawings are at a glance."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)


def write_pool(folder: Path, seeds: range) -> Path:
    folder.mkdir(parents=True)
    for seed in seeds:
        picture(seed).save(folder / f"{seed}.png")
    return folder


def data_with(root: Path, *entries: Path | str, **fields: object) -> DataRecipe:
    return DataRecipe.model_validate(
        {"root": str(root), "target": "photo", "unlabelled": [*map(str, entries)]} | fields
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three domains of smooth pictures, every one different."""
    root, seed = make_domain_folder(tmp_path / "data"), 1000
    for path in sorted(root.rglob("*.png")):
        picture(seed := seed + 1).save(path)
    return root


def test_folder_glob_and_manifests_name_the_same_unlabelled_images(root: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool" / "deep", range(4))
    (pool / "notes.md").write_text("not an image")
    text, table = tmp_path / "pool" / "list.txt", tmp_path / "pool" / "list.csv"
    text.write_text("".join(f"deep/{n}.png\n" for n in range(4)) + "\n")
    table.write_text("image,score\n" + "".join(f"deep/{n}.png,0.5\n" for n in range(4)))
    entries = [tmp_path / "pool", f"{tmp_path}/pool/*/*.png", f"{tmp_path}/pool/**/*", text, table]
    found = [load_unlabelled(data_with(root, entry)) for entry in entries]
    names = [[sample.path.name for sample in of_entry.samples] for of_entry in found]
    assert names == [["0.png", "1.png", "2.png", "3.png"]] * 5
    assert {sample.label for sample in found[0].samples} == {UNLABELLED}
    assert len({of_entry.fingerprint for of_entry in found}) == 1
    (pool / ".thumbnails").mkdir()
    picture(9).save(pool / ".thumbnails" / "9.png")
    hidden = load_unlabelled(data_with(root, f"{tmp_path}/pool/**/*"))
    assert (hidden.samples, hidden.unused) == (found[2].samples, found[2].unused)
    assert len(load_unlabelled(data_with(root, f"{pool}/.thumbnails/*.png")).samples) == 1
    together = load_unlabelled(data_with(root, *entries))
    assert (len(together.samples), together.duplicates) == (4, 16)
    assert together.counts() == {str(entries[0]): 4}


def test_an_unlabelled_entry_that_names_nothing_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.csv").write_text("path\nx.png\n")
    for entry in ("empty", "nowhere", "*.tiff", "wrong.csv"):
        with pytest.raises(DataError, match=r"data\.unlabelled"):
            load_unlabelled(data_with(root, tmp_path / entry))


def test_unlabelled_images_that_do_not_decode_are_listed_or_skipped(root: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", range(3))
    (pool / "1.png").write_bytes(b"torn")
    with pytest.raises(BadImagesError, match=r"1\.png"):
        load_unlabelled(data_with(root, pool))
    found = load_unlabelled(data_with(root, pool), skip_bad=True)
    assert len(found.samples) == 2
    assert found.skipped == (str(pool / "1.png"),)


def held_out(domain_set: DomainSet, domain: str) -> Path:
    return evaluation_samples(domain_set, domain, "photo")[0].path


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return Image.open(encoded)


@pytest.mark.parametrize("domain", ["ink", "photo"])
@pytest.mark.parametrize("how", ["bytes", "jpeg", "resized"])
def test_an_unlabelled_test_image_of_any_domain_is_refused_by_name(
    root: Path, tmp_path: Path, domain: str, how: str
) -> None:
    domain_set = load_domains(data_with(root))
    pool, test_image = write_pool(tmp_path / "pool", range(3)), held_out(domain_set, domain)
    match how:
        case "bytes":
            shutil.copy(test_image, pool / "copied.png")
        case "jpeg":
            Image.open(test_image).convert("RGB").save(pool / "copied.jpg", quality=60)
        case "resized":
            Image.open(test_image).resize((30, 30)).save(pool / "copied.png")
    unlabelled = load_unlabelled(data_with(root, pool)).samples
    with pytest.raises(DataError, match="copied") as refused:
        require_not_held_out(unlabelled, domain_set, "photo")
    assert str(test_image) in str(refused.value)
    assert f"test image of {domain}" in str(refused.value)
    assert "0.png is" not in str(refused.value).replace(str(test_image), "")


def test_an_unlabelled_val_image_of_a_source_is_refused(root: Path, tmp_path: Path) -> None:
    domain_set = load_domains(data_with(root))
    pool = write_pool(tmp_path / "pool", range(2))
    shutil.copy(domain_set.select({"ink"}, "val")[0].path, pool / "copied.png")
    with pytest.raises(DataError, match="val image of ink"):
        require_not_held_out(load_unlabelled(data_with(root, pool)).samples, domain_set, "photo")


def test_unlabelled_images_of_the_target_are_counted(root: Path, tmp_path: Path) -> None:
    # Groups that span domains: only the target's test groups are measured, its train images can be used.
    rows = [f"{p.relative_to(root).as_posix()},{p.parent.name}{p.stem}" for p in sorted(root.rglob("*.png"))]
    (tmp_path / "groups.csv").write_text("\n".join(["image,group", *rows]))
    split = SplitRecipe(groups=str(tmp_path / "groups.csv"), val=0.2, test=0.3)
    domain_set = load_domains(data_with(root, split=split.model_dump()))
    pool = write_pool(tmp_path / "pool", range(2))
    ours = [sample.path for sample in domain_set.select({"photo"}, "train")]
    theirs = [sample.path for sample in domain_set.select({"ink"}, "train")]
    shutil.copy(theirs[0], pool / "of_a_source.png")
    strangers = load_unlabelled(data_with(root, pool)).samples
    assert require_not_held_out(strangers, domain_set, "photo") == 0
    jpeg(Image.open(ours[0]).convert("RGB"), 70).save(pool / "copied.png")
    manifest = tmp_path / "list.txt"
    # in the target's folder, though of no class that is used
    stray = root / "photo" / "others" / "stray.png"
    stray.parent.mkdir()
    picture(5000).save(stray)
    manifest.write_text(f"{ours[1]}\n{stray}\n")
    unlabelled = load_unlabelled(data_with(root, pool, manifest)).samples
    assert require_not_held_out(unlabelled, domain_set, "photo") == 3


def test_copies_of_unlabelled_pictures_look_the_same_and_others_do_not() -> None:
    images = [picture(seed, side=160) for seed in range(200)]
    looks = [look_of(image) for image in images]
    assert first_same_picture(looks, looks) == list(range(200))
    assert first_same_picture(looks[:100], looks[100:]) == [None] * 100
    for copy in (
        lambda i: jpeg(i, 50),
        lambda i: i.resize((224, 224)),
        lambda i: jpeg(i.resize((90, 90)), 70),
    ):
        copies = [look_of(copy(image).convert("RGB")) for image in images]
        assert sum(a == b for a, b in zip(first_same_picture(copies, looks), range(200), strict=True)) >= 198
    # Little contrast: other pictures are near, copies are nearer.
    dim = [Image.eval(image, lambda value: 120 + value // 20) for image in images]
    dim_looks = [look_of(image) for image in dim]
    assert first_same_picture(dim_looks[:100], dim_looks[100:]) == [None] * 100
    copies = [look_of(image.resize((224, 224))) for image in dim]
    assert first_same_picture(copies, dim_looks) == list(range(200))
    blank = [look_of(Image.new("RGB", (20, 20), (120, 120, shade))) for shade in (120, 121)]
    assert first_same_picture(blank, blank) == [0, 1]
    assert first_same_picture([], looks) == []
    assert first_same_picture(looks[:2], []) == [None, None]


def test_unlabelled_images_stay_on_their_side_of_what_is_held_out(root: Path, tmp_path: Path) -> None:
    few, many = (write_pool(tmp_path / name, range(count)) for name, count in (("few", 40), ("many", 400)))
    sides = []
    for pool in (few, many):
        whole = load_unlabelled(data_with(root, pool))
        kept, out = split_held_out(whole, 0.25)
        assert sorted(s.sha256 for s in (*kept.samples, *out.samples)) == sorted(
            s.sha256 for s in whole.samples
        )
        assert kept.fingerprint != whole.fingerprint != out.fingerprint
        sides.append({sample.sha256 for sample in out.samples})
    assert sides[0] < sides[1]
    assert 400 * 0.25 - 4 * 8.7 < len(sides[1]) < 400 * 0.25 + 4 * 8.7  # 4 standard deviations
    assert split_held_out(whole, 0.0) == (whole, split_held_out(whole, 0.0)[1])
    assert split_held_out(whole, 0.0)[1].samples == ()
    with pytest.raises(DataError, match=r"data\.unlabelled_held_out"):
        split_held_out(replace(whole, samples=whole.samples[:1]), 0.9999)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.75])
def test_a_share_of_unlabelled_contents_is_held_out_however_they_were_chosen(share: float) -> None:
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000)]
    for chosen in (hashes, [sha256 for sha256 in hashes if int(sha256, 16) % 4 == 0]):
        samples = tuple(Sample(Path(), "pool", UNLABELLED, "", "train", sha256) for sha256 in chosen)
        held = len(split_held_out(Unlabelled(samples), share)[1].samples)
        assert abs(held - share * len(chosen)) < 4 * (len(chosen) * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("target", ["fluent-3d", "fluent-high-contrast", "noto", "openmoji", "twemoji"])
def test_the_built_in_unlabelled_drawings_are_by_other_hands_than_the_targets(
    target: str,
) -> None:
    data = DataRecipe(root=BUILTIN_DATA, target=target, unlabelled=(BUILTIN_UNLABELLED,))
    unlabelled = load_unlabelled(data)
    styles = {sample.path.parent.name for sample in unlabelled.samples}
    same_hand = {"fluent-3d": "fluent-flat", "noto": "noto-v1"}.get(target)
    assert len(unlabelled.samples) > 2000 and unlabelled.counts().keys() == {BUILTIN_UNLABELLED}
    assert target not in styles and same_hand not in styles and len(styles) > 15
    # raises for a held-out image; counts those of the target
    assert require_not_held_out(unlabelled.samples, load_domains(data), target) == 0


def test_the_built_in_unlabelled_drawings_are_a_setting_and_no_path(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = (Path(__file__).parents[2] / "recipes/quickstart.yaml").read_text()
    file.write_text(text)
    recipe = load_recipe(file, [f"data.unlabelled=[{BUILTIN_UNLABELLED}, strangers]"])
    assert recipe.data.unlabelled == (BUILTIN_UNLABELLED, str(tmp_path / "strangers"))
    with pytest.raises(RecipeError, match=BUILTIN_UNLABELLED):
        load_recipe(file, ["data.unlabelled=[builtin:emojidg-unlabeled]"])
