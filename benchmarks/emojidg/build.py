"""Builds EmojiDG, the built-in benchmark: demo_data/vl2v_deploy_demo/emojidg.zip.

    python -m benchmarks.emojidg.build [--packages DIR] [--sheet SHEET.png]

Five domains (drawing styles), twelve classes, one image of each concept in each domain. The archive's
bytes depend only on the pinned packages, on Pillow's WebP encoder and on resvg.
"""

import argparse
import csv
import hashlib
import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.emojidg.classes import CLASSES
from benchmarks.emojidg.concepts import MIN_FAMILIES, SPLITS, Concept, load_concepts, split_families
from benchmarks.emojidg.drawings import (
    DOMAINS,
    EMOJIBASE,
    SIZE_PX,
    Package,
    Style,
    install_packages,
    is_blank,
)

DEMO_DATA = Path(__file__).parents[2] / "demo_data/vl2v_deploy_demo"  # what the extra demo installs
ARCHIVE = DEMO_DATA / "emojidg.zip"
SEED = 7
WEBP_QUALITY = 80
MAX_ARCHIVE_BYTES = 12_000_000
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
DRAWN = f"selected, rasterised at {SIZE_PX} px on a white ground, stored as lossy WebP"  # what we changed
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: bytes must not depend on the clock


@dataclass(frozen=True)
class Benchmark:
    """Everything the archive holds: concepts in the order of their files, images, splits."""

    concepts: list[Concept]
    images: dict[tuple[str, str], bytes]  # (domain, concept code) -> WebP
    split: dict[tuple[str, str], str]  # (class, family) -> split

    def side(self, concept: Concept) -> str:
        """Split of one concept."""
        return self.split[str(concept.category), concept.family]


def webp_from_picture(picture: Image.Image) -> bytes:
    """WebP bytes of an RGB picture, the same for the same Pillow."""
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=WEBP_QUALITY, method=6)
    return out.getvalue()


def pixel_hash(webp: bytes) -> str:
    """Hash of the decoded pixels: equal for images that look exactly alike."""
    return hashlib.sha256(Image.open(io.BytesIO(webp)).convert("RGB").tobytes()).hexdigest()


def build_benchmark(modules: Path, seed: int) -> Benchmark:
    """Concepts drawn in all five domains, without blank drawings and exact duplicates, and their split.

    modules: folder `node_modules` with the pinned packages
    seed:    of the split
    """
    styles = {domain: Style(modules, package) for domain, package in DOMAINS.items()}
    images: dict[tuple[str, str], bytes] = {}
    kept: list[Concept] = []
    seen: set[str] = set()
    for concept in load_concepts(modules / EMOJIBASE.name):
        if concept.category is None:
            continue
        drawings = draw_everywhere(styles, concept)
        hashes = {pixel_hash(webp) for webp in drawings.values()}
        # The first of several look-alikes stays, so that a concept is in all domains or in none.
        if len(hashes) == len(DOMAINS) and not hashes & seen:
            seen |= hashes
            kept.append(concept)
            images |= {(domain, concept.code): webp for domain, webp in drawings.items()}
    kept.sort(key=lambda concept: (str(concept.category), concept.name))
    return Benchmark(kept, images, split_families(kept, seed))


def draw_everywhere(styles: Mapping[str, Style], concept: Concept) -> dict[str, bytes]:
    """WebP of the concept in each domain; empty if one domain has no real drawing of it."""
    drawings = {}
    for domain, style in styles.items():
        picture = style.draw(concept.code, concept.label)
        if picture is None or is_blank(picture):
            return {}
        drawings[domain] = webp_from_picture(picture)
    return drawings


def check_benchmark(bench: Benchmark) -> None:
    """Raises ValueError if an invariant of EmojiDG does not hold."""
    if len(bench.images) != len(DOMAINS) * len(bench.concepts):
        raise ValueError(f"expected every concept in {len(DOMAINS)} domains, got {len(bench.images)} images")
    if len({concept.name for concept in bench.concepts}) != len(bench.concepts):
        raise ValueError("two concepts share a file name")
    if len({pixel_hash(webp) for webp in bench.images.values()}) != len(bench.images):
        raise ValueError("two images have identical pixels")
    if tones := [c.name for c in bench.concepts if SKIN_TONES & set(c.code.split("-"))]:
        raise ValueError(f"skin-tone variants among the concepts: {tones}")
    families = Counter((category, side) for (category, _), side in bench.split.items())
    for category in CLASSES:
        for side in SPLITS:
            if families[category, side] < MIN_FAMILIES:
                raise ValueError(f"{category}/{side}: {families[category, side]} families, expected >= 2")


def groups_csv(bench: Benchmark) -> str:
    """Text of groups.csv: image, group, split of every image, sorted by image."""
    rows = [
        (
            f"{domain}/{concept.category}/{concept.name}.webp",
            f"{concept.category}/{concept.family}",
            bench.side(concept),
        )
        for domain in DOMAINS
        for concept in bench.concepts
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("image", "group", "split"))
    writer.writerows(sorted(rows))
    return out.getvalue()


def entry_of_package(title: str, package: Package, change: str = DRAWN) -> str:
    """The section of ATTRIBUTION.md about one package; `change` is what was changed of it."""
    return (
        f"## {title}\n- package: npm `{package.name}` {package.version}\n- author: {package.author}\n"
        f"- source: {package.source}\n- licence: {package.licence} ({package.licence_url})\n"
        f"- changes: {change}\n"
    )


def attribution() -> str:
    """Text of ATTRIBUTION.md: who drew what, under which licence, and what was changed."""

    parts = [
        "# Sources of EmojiDG\n\nEach folder holds the drawings of one work under that work's own licence. "
        "The folder `openmoji` is adapted material under CC BY-SA 4.0 and stays under it; `twemoji` is under "
        "CC BY 4.0. The authors do not endorse this benchmark.\n",
        *(entry_of_package(f"{domain}/", package) for domain, package in DOMAINS.items()),
        entry_of_package(
            "labels, groups and file names", EMOJIBASE, "labels turned into file names; classes regrouped"
        ),
    ]
    return "\n".join(parts)


def write_archive(bench: Benchmark, path: Path) -> None:
    """Writes EmojiDG's archive."""
    entries = {
        f"emojidg/{d}/{c.category}/{c.name}.webp": bench.images[d, c.code]
        for d in DOMAINS
        for c in bench.concepts
    }
    entries["emojidg/groups.csv"] = groups_csv(bench).encode()
    entries["emojidg/ATTRIBUTION.md"] = attribution().encode()
    write_zip(entries, path)


def write_zip(entries: Mapping[str, bytes], path: Path) -> None:
    """Writes an archive with sorted, stored entries and fixed times and modes: bytes are reproducible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(entries.items()):
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # unix, on whatever system this runs
            archive.writestr(info, data)
    size = path.stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{path}: {size} bytes, expected at most {MAX_ARCHIVE_BYTES}; lower WEBP_QUALITY")


def count_table(bench: Benchmark) -> str:
    """Images per domain, class and split; families per class and split. Domains are alike by construction."""
    images = Counter((d, c.category, bench.side(c)) for d in DOMAINS for c in bench.concepts)
    families = Counter((category, side) for (category, _), side in bench.split.items())
    lines = [f"{'domain':<21}{'class':<17}" + "".join(f"{side:>7}" for side in SPLITS)]
    for domain in DOMAINS:
        for category in sorted(CLASSES):
            lines.append(
                f"{domain:<21}{category:<17}" + "".join(f"{images[domain, category, s]:>7}" for s in SPLITS)
            )
        totals = [sum(images[domain, category, s] for category in CLASSES) for s in SPLITS]
        lines.append(f"{domain:<21}{'all':<17}" + "".join(f"{total:>7}" for total in totals))
    for category in sorted(CLASSES):
        lines.append(
            f"{'families':<21}{category:<17}" + "".join(f"{families[category, s]:>7}" for s in SPLITS)
        )
    return "\n".join(lines)


def write_sheet(bench: Benchmark, path: Path, rows: int = 2) -> None:
    """Contact sheet: `rows` rows a domain, one column a class, the same concepts in every domain."""
    sheet = Image.new("RGB", (len(CLASSES) * SIZE_PX, (len(DOMAINS) * rows) * SIZE_PX + 16), "white")
    pen = ImageDraw.Draw(sheet)
    for column, category in enumerate(sorted(CLASSES)):
        pen.text((column * SIZE_PX + 2, 2), category, fill="black")
        members = [c for c in bench.concepts if c.category == category]
        for row, domain in enumerate(d for d in DOMAINS for _ in range(rows)):
            concept = members[(row % rows + 1) * len(members) // (rows + 1)]
            picture = Image.open(io.BytesIO(bench.images[domain, concept.code]))
            sheet.paste(picture, (column * SIZE_PX, row * SIZE_PX + 16))
    sheet.save(path)


def main() -> None:
    """Builds, checks and writes the archive; prints its counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="npm folder to fill or to use again [default: temporary]"
    )
    parser.add_argument("--out", type=Path, default=ARCHIVE)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet (PNG)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        modules = install_packages(options.packages or Path(scratch), DOMAINS)
        bench = build_benchmark(modules, SEED)
    check_benchmark(bench)
    write_archive(bench, options.out)
    if options.sheet:
        write_sheet(bench, options.sheet)
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(count_table(bench))
    print(f"{len(bench.concepts)} concepts x {len(DOMAINS)} domains, {options.out.stat().st_size} bytes")
    print(f"sha256 {digest}")


if __name__ == "__main__":
    main()
