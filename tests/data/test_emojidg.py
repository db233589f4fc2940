"""EmojiDG as shipped: what is in the archive, and that no concept sits on two sides of the split."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

ARCHIVE = Path(__file__).parents[2] / "demo_data/vl2v_deploy_demo/emojidg.zip"
DOMAINS = {"fluent-3d", "noto", "twemoji", "openmoji", "fluent-high-contrast"}
CLASSES = {
    *("building", "clock", "clothing", "geometric_shape", "hand_gesture", "land_vehicle", "letter_sign"),
    *("mammal", "meal", "person", "smiley_face", "weather_symbol"),
}


@pytest.fixture(scope="module")
def archive() -> dict[str, bytes]:
    with zipfile.ZipFile(ARCHIVE) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist()}


@pytest.fixture(scope="module")
def rows(archive: dict[str, bytes]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive["emojidg/groups.csv"].decode("ascii"))))


def test_archive_is_reproducible_in_form_and_small() -> None:
    with zipfile.ZipFile(ARCHIVE) as opened:
        infos = opened.infolist()
    assert [i.filename for i in infos] == sorted(i.filename for i in infos)
    assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED}
    assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert ARCHIVE.stat().st_size <= 12_000_000


def test_groups_csv_lists_exactly_the_images(archive: dict[str, bytes], rows: list[dict[str, str]]) -> None:
    assert list(rows[0]) == ["image", "group", "split"]
    listed = [f"emojidg/{row['image']}" for row in rows]
    others = {"emojidg/groups.csv", "emojidg/ATTRIBUTION.md"}
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(archive) - others


def test_every_domain_holds_the_same_concepts_and_splits(rows: list[dict[str, str]]) -> None:
    by_domain: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for row in rows:
        domain, rest = row["image"].split("/", 1)
        by_domain[domain].add((rest, row["group"], row["split"]))
    assert set(by_domain) == DOMAINS
    assert len({frozenset(members) for members in by_domain.values()}) == 1
    assert 750 <= len(by_domain["noto"]) <= 790


def test_every_class_is_in_every_split_with_two_families(rows: list[dict[str, str]]) -> None:
    families = defaultdict(set)
    for row in rows:
        families[row["image"].split("/")[1], row["split"]].add(row["group"])
    assert set(families) == {(c, s) for c in CLASSES for s in ("train", "val", "test")}
    assert min(len(groups) for groups in families.values()) >= 2


def test_split_shares_are_50_10_40_percent_of_the_families(rows: list[dict[str, str]]) -> None:
    side = {row["group"]: row["split"] for row in rows}
    counts = Counter(side.values())
    shares = {split: counts[split] / len(side) for split in counts}
    # rounding happens in each of twelve classes, and small classes give val its two families
    assert shares == pytest.approx({"train": 0.5, "val": 0.1, "test": 0.4}, abs=0.03)


def test_no_family_sits_on_two_sides(rows: list[dict[str, str]]) -> None:
    sides = defaultdict(set)
    for row in rows:
        sides[row["group"]].add(row["split"])
        assert row["group"].split("/")[0] == row["image"].split("/")[1]
    assert {group: s for group, s in sides.items() if len(s) > 1} == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("person/firefighter", "person/woman-firefighter"),
        ("person/man-health-worker", "person/woman-health-worker"),
        ("clock/ten-oclock", "clock/ten-thirty"),
        ("land_vehicle/bus", "land_vehicle/oncoming-bus"),
        ("hand_gesture/thumbs-up", "hand_gesture/thumbs-down"),
        ("mammal/cat", "mammal/cat-face"),
        ("geometric_shape/red-circle", "geometric_shape/blue-circle"),
        ("person/mermaid", "person/merman"),
    ],
)
def test_variants_of_one_concept_share_a_family(rows: list[dict[str, str]], one: str, other: str) -> None:
    # a file name is the label's slug, a hyphen, the code: any code of four or five hex digits
    group = {row["image"].split("/", 1)[1]: row["group"] for row in rows}
    one_is, other_is = (
        {g for name, g in group.items() if re.fullmatch(rf"{start}-[0-9a-f]{{4,5}}(-[0-9a-f]+)*\.webp", name)}
        for start in (one, other)
    )
    assert one_is == other_is
    assert len(one_is) == 1


def test_no_two_images_have_the_same_pixels(archive: dict[str, bytes]) -> None:
    seen: dict[str, str] = {}
    for name, data in archive.items():
        if not name.endswith(".webp"):
            continue
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (128, 128), name
            digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
        assert digest not in seen, f"{name} and {seen.get(digest)}"
        seen[digest] = name


def test_no_skin_tone_variants(rows: list[dict[str, str]]) -> None:
    tones = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
    assert [row["image"] for row in rows if any(tone in row["image"] for tone in tones)] == []


def test_attribution_names_every_source_and_licence(archive: dict[str, bytes]) -> None:
    text = archive["emojidg/ATTRIBUTION.md"].decode()
    for domain in DOMAINS:
        assert f"## {domain}/" in text
    for word in ("CC-BY-SA-4.0", "CC-BY-4.0", "Apache-2.0", "MIT", "emojibase-data", "128 px", "https://"):
        assert word in text
