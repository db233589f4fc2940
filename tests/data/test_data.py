from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.domain_folders import CLASSES, DOMAINS
from vl2v_deploy.client.images import Limits
from vl2v_deploy.client.preprocess import open_rgb
from vl2v_deploy.data import content
from vl2v_deploy.data.domains import DomainSet, data_fingerprint, evaluation_samples, load_domains
from vl2v_deploy.data.splits import assign_splits, read_groups
from vl2v_deploy.data.starter import starter_recipe
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.recipe import DataRecipe, SplitRecipe, load_recipe


def load(root: Path, **options: object) -> DomainSet:
    return load_domains(DataRecipe.model_validate({"root": str(root), "target": "photo"} | options))


def test_finds_every_image_with_its_domain_and_class(domain_folder: Path) -> None:
    domain_set = load(domain_folder)
    assert domain_set.domains == DOMAINS
    assert domain_set.classes == CLASSES
    assert len(domain_set.samples) == 60
    for sample in domain_set.samples:
        assert sample.path.parts[-3:-1] == (sample.domain, CLASSES[sample.label])


def test_shares_hold_in_every_domain_and_class(domain_folder: Path) -> None:
    counts = Counter((s.domain, s.label, s.split) for s in load(domain_folder).samples)
    for domain in DOMAINS:
        for label in range(2):
            assert [counts[domain, label, split] for split in ("train", "val", "test")] == [7, 1, 2]


def test_split_depends_on_its_seed_and_nothing_else(domain_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(domain_folder, moved)

    def sides(root: Path, seed: int) -> list[str]:
        return [s.split for s in load(root, split={"seed": seed}).samples]

    assert sides(domain_folder, 0) == sides(moved, 0)
    assert sides(domain_folder, 0) != sides(domain_folder, 1)


def test_adding_an_image_moves_few_others() -> None:
    names = [f"{number}.png" for number in range(200)]
    strata = [("d", "c")] * 200
    before = dict(zip(names, assign_splits(names, strata, None, SplitRecipe()), strict=True))
    more = [*names, "new.png"]
    after = dict(zip(more, assign_splits(more, [*strata, ("d", "c")], None, SplitRecipe()), strict=True))
    assert sum(before[name] != after[name] for name in names) <= 2


def write_groups(root: Path, split: bool) -> Path:
    path = root.parent / "groups.csv"
    lines = ["image,group" + (",split" if split else "")]
    for image in sorted(root.rglob("*.png")):
        number = int(image.stem)
        side = f",{('train', 'train', 'train', 'val', 'test')[number // 2]}" if split else ""
        lines.append(f"{image.relative_to(root).as_posix()},{image.parent.name}{number // 2}{side}")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("fixed", [False, True])
def test_a_group_never_stands_on_two_sides(domain_folder: Path, fixed: bool) -> None:
    groups = write_groups(domain_folder, split=fixed)
    domain_set = load(domain_folder, split={"groups": str(groups)})
    sides = defaultdict(set)
    for sample in domain_set.samples:
        sides[sample.group].add(sample.split)
    assert len(sides) == 10  # each spans the three domains
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for split in side} == {"train", "val", "test"}
    if fixed:
        assert sides["circle4"] == {"test"}


def test_ood_images_are_all_of_the_target_unless_groups_span_domains(domain_folder: Path) -> None:
    plain = load(domain_folder)
    assert len(evaluation_samples(plain, "photo", "photo")) == 20
    assert {s.split for s in evaluation_samples(plain, "ink", "photo")} == {"test"}
    grouped = load(domain_folder, split={"groups": str(write_groups(domain_folder, split=True))})
    assert {s.split for s in evaluation_samples(grouped, "photo", "photo")} == {"test"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("picture,group\na,b", "columns image,group"),
        ("image,group\nink/circle/0.png,g", "have no group"),
        ("image,group\na,g\na,h\nb,g", "is in two groups"),
        ("image,group,split\na,g,train\nb,g,test", "stands on two sides"),
        ("image,group,split\na,g,dev\nb,g,dev", "expected train, val or test"),
    ],
)
def test_bad_groups_files(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(content)
    images = ["a", "b"] if "ink" not in content else ["ink/circle/0.png", "ink/circle/1.png"]
    with pytest.raises(DataError, match=expected):
        read_groups(path, images)


def test_missing_root_target_class_and_empty_class(domain_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no domain 'foto'; it has: ink, paint, photo"):
        load(domain_folder, target="foto")
    with pytest.raises(DataError, match="at least two"):
        load(domain_folder / "ink" / "circle")
    for image in (domain_folder / "paint" / "square").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="paint/square: holds no usable image"):
        load(domain_folder)
    (domain_folder / "paint" / "square").rmdir()
    assert load(domain_folder).lacking == {"paint": ("square",)}
    with pytest.raises(DataError, match=r"paint: class folder 'square' is missing"):
        load(domain_folder, split="domainbed")


def test_groups_inside_one_domain_leave_the_whole_target_for_ood(domain_folder: Path) -> None:
    path = domain_folder.parent / "groups.csv"
    images = [image.relative_to(domain_folder).as_posix() for image in sorted(domain_folder.rglob("*.png"))]
    rows = [f"{name},{Path(name).parent}/{int(Path(name).stem) // 2}" for name in images]
    path.write_text("\ufeff" + "\n".join(["image,group", *rows]), encoding="utf-8")  # as Excel writes it
    domain_set = load(domain_folder, split={"groups": str(path)})
    assert not domain_set.groups_span_domains
    assert len(evaluation_samples(domain_set, "photo", "photo")) == 20


def test_a_class_name_for_a_class_that_is_not_there(domain_folder: Path) -> None:
    with pytest.raises(DataError, match="no class 'circel'; did you mean 'circle'"):
        load(domain_folder, class_names={"circel": "round thing"})


def test_bad_images_are_listed_and_can_be_skipped(domain_folder: Path) -> None:
    truncated, text = domain_folder / "ink/circle/3.png", domain_folder / "photo/square/7.png"
    truncated.write_bytes(truncated.read_bytes()[:200])
    text.write_text("not an image")
    data = DataRecipe(root=str(domain_folder), target="photo")
    with pytest.raises(BadImagesError) as caught:
        load_domains(data)
    assert {path for path, _ in caught.value.problems} == {str(truncated), str(text)}
    assert "--skip-bad" in str(caught.value)
    assert str(truncated) in str(caught.value)
    domain_set = load_domains(data, skip_bad=True)
    assert set(domain_set.skipped) == {"ink/circle/3.png", "photo/square/7.png"}
    assert len(domain_set.samples) == 58


def test_fingerprint_follows_one_changed_byte(domain_folder: Path) -> None:
    before = data_fingerprint(load(domain_folder))
    assert data_fingerprint(load(domain_folder)) == before
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(domain_folder / "ink/circle/0.png")
    assert data_fingerprint(load(domain_folder)) != before


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bytes]:
    """What is decoded from now on; with an empty cache folder."""
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    seen: list[bytes] = []

    def watched(encoded: bytes, limits: Limits) -> Image.Image:
        seen.append(encoded)
        return open_rgb(encoded, limits)

    monkeypatch.setattr(content, "open_rgb", watched)
    return seen


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are looked at a minute after they were written: nobody can set the time of an inode's change."""
    now = time.time_ns
    monkeypatch.setattr(content.time, "time_ns", lambda: now() + 60_000_000_000)


def test_samples_carry_the_hash_of_their_bytes(
    domain_folder: Path, decoded: list[bytes], settled: None
) -> None:
    for _ in range(2):  # read, then remembered
        for sample in load(domain_folder).samples:
            assert sample.sha256 == hashlib.sha256(sample.path.read_bytes()).hexdigest()


def test_images_are_read_once_until_they_change(
    domain_folder: Path, decoded: list[bytes], settled: None
) -> None:
    first = load(domain_folder)
    assert len(decoded) == 60
    assert load(domain_folder) == first
    assert load(domain_folder, target="ink", split="domainbed").samples[0].sha256 == first.samples[0].sha256
    assert len(decoded) == 60
    path = domain_folder / "ink" / "circle" / "0.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    changed = load(domain_folder)
    assert decoded[60:] == [path.read_bytes()]
    assert data_fingerprint(changed) != data_fingerprint(first)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadImagesError, match=r"ink/circle/0\.png: is damaged or truncated"):
        load(domain_folder)


def test_an_older_file_of_the_same_size_is_a_change_too(
    domain_folder: Path, decoded: list[bytes], settled: None
) -> None:
    first = load(domain_folder)
    path = domain_folder / "ink" / "circle" / "0.png"
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # in the end chunk's checksum, which decoders leave alone
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))
    assert path.stat().st_size == before.st_size
    assert data_fingerprint(load(domain_folder)) != data_fingerprint(first)


def test_a_change_within_the_clocks_tick_is_seen(domain_folder: Path, decoded: list[bytes]) -> None:
    """Same size, same time: what was changed only just now is not remembered, so it is read again."""
    path = domain_folder / "ink" / "circle" / "0.png"
    state, before = path.stat(), path.read_bytes()
    first = load(domain_folder)
    path.write_bytes(before[:-1] + b"!")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert data_fingerprint(load(domain_folder)) != data_fingerprint(first)


def test_a_bad_image_is_tried_again(domain_folder: Path, decoded: list[bytes], settled: None) -> None:
    (domain_folder / "ink" / "circle" / "0.png").write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(BadImagesError) as caught:
            load(domain_folder)
        assert len(caught.value.problems) == 1
    assert decoded.count(b"damaged") == 2
    assert len(decoded) == 61


def test_processes_share_what_they_remember(domain_folder: Path, decoded: list[bytes], settled: None) -> None:
    code = (
        "import sys; from pathlib import Path; from vl2v_deploy.data import content;"
        "now = content.time.time_ns; content.time.time_ns = lambda: now() + 60_000_000_000;"
        "print(*(c.sha256 for c in content.read_contents(sorted(Path(sys.argv[1]).rglob('*.png')))))"
    )
    command = [sys.executable, "-c", code, str(domain_folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    paths = sorted(domain_folder.rglob("*.png"))
    assert printed == [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]] * 2
    load(domain_folder)
    assert decoded == []


def test_a_damaged_database_says_what_to_do(
    domain_folder: Path, decoded: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images.sqlite3").write_bytes(b"something else" * 100)
    with pytest.raises(DataError, match=r"images\.sqlite3: .*delete it"):
        load(domain_folder)


def test_more_images_than_are_written_down_at_once(
    domain_folder: Path, decoded: list[bytes], settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "AT_ONCE", 7)
    first = load(domain_folder)
    assert load(domain_folder) == first
    assert len(decoded) == 60


def test_starter_recipe_loads_and_names_what_is_there(domain_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    out.write_text(starter_recipe(domain_folder, "paint", out)[0])
    recipe = load_recipe(out)
    assert recipe.data.target == "paint"
    assert Path(recipe.data.root) == domain_folder.resolve()
    assert "ink: 20 images" in out.read_text()
    with pytest.raises(DataError, match="no domain"):
        starter_recipe(domain_folder, "nothing", None)


def exchange(one: Path, other: Path) -> None:
    """Both files' bytes change places; size and time of the last change stay as they are."""
    states = [path.stat() for path in (one, other)]
    contents = [path.read_bytes() for path in (one, other)]
    for path, encoded, state in zip((one, other), reversed(contents), states, strict=True):
        path.write_bytes(encoded)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def same_size_pair(root: Path) -> tuple[Path, Path]:
    pair = root / "ink/circle/bmp-0.bmp", root / "ink/circle/bmp-1.bmp"
    for shade, path in enumerate(pair):
        Image.new("RGB", (8, 8), (90 * shade, 10, 10)).save(path)
        os.utime(path, ns=(10**18, 10**18))
    assert pair[0].stat().st_size == pair[1].stat().st_size
    return pair


def test_exchanged_files_are_not_duplicates_of_what_was_remembered(
    domain_folder: Path, decoded: list[bytes], settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and date are the same: inode and change time tell, without a look at the bytes."""
    monkeypatch.setattr(content, "RECHECKED", 0)
    one, other = same_size_pair(domain_folder)
    first = {sample.path: sample.sha256 for sample in load(domain_folder).samples}
    exchange(one, other)
    now = {sample.path: sample.sha256 for sample in load(domain_folder).samples}
    assert (now[one], now[other]) == (first[other], first[one])
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)
    assert {sample.path: sample.sha256 for sample in load(domain_folder).samples} == first


def test_a_wrong_remembered_hash_is_found_dropped_and_said(
    domain_folder: Path,
    decoded: list[bytes],
    settled: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a file system that makes up inodes and times nothing tells but the bytes."""
    state = content._state

    def made_up(path: Path) -> object:
        found = state(path)
        return found and found._replace(mtime_ns=1, ctime_ns=1, inode=1)

    monkeypatch.setattr(content, "_state", made_up)
    one, other = same_size_pair(domain_folder)
    first = {sample.path: sample.sha256 for sample in load(domain_folder).samples}
    assert len(decoded) == 62
    exchange(one, other)
    now = {sample.path: sample.sha256 for sample in load(domain_folder).samples}
    assert (now[one], now[other]) == (first[other], first[one])
    assert len(decoded) == 124 and "are read again" in capsys.readouterr().err
    load(domain_folder)
    assert len(decoded) == 124


def test_bytes_that_are_not_those_that_were_hashed_are_refused(
    domain_folder: Path, decoded: list[bytes], settled: None
) -> None:
    path = domain_folder / "ink/circle/0.png"
    [sample] = [sample for sample in load(domain_folder).samples if sample.path == path]
    assert content.read_unchanged(path, sample.sha256) == path.read_bytes()
    path.write_bytes((domain_folder / "ink/circle/1.png").read_bytes())
    with pytest.raises(DataError, match="no longer the image"):
        content.read_unchanged(path, sample.sha256)
