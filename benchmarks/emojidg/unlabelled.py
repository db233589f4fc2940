"""Writes a pool of drawings without labels for EmojiDG's students: OUT/<style>/<drawing>.webp.

    python -m benchmarks.emojidg.unlabelled OUT [--packages DIR] [--archive FILE]

The drawings are those of the teacher's training data (see teacher_data.py) without any emoji or icon of a
val or test family, whatever its style. `styles_for` names the folders that a student may see: all but those
by the hand that drew its target.

--archive writes the part of the pool that is shipped: a quarter, chosen by hash, of all styles but those in
NOT_SHIPPED, without a drawing that shows the same picture as one of EmojiDG.
"""

import argparse
import hashlib
import io
import json
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from PIL import Image

from benchmarks.emojidg.build import ARCHIVE, entry_of_package, webp_from_picture, write_zip
from benchmarks.emojidg.drawings import DOMAINS, EXTRA_STYLES, install_packages
from benchmarks.emojidg.icons import ICON_PACKAGES
from benchmarks.emojidg.teacher_data import HeldOut, training_drawings
from vl2v_deploy.data.emojidg import NOT_FOR
from vl2v_deploy.data.looks import first_same_picture, look_of

STYLES = (*DOMAINS, *EXTRA_STYLES, *ICON_PACKAGES)
# Drawings by the same hand as a target's: its older version, or the same drawing without its shading.
SAME_HAND = {"fluent-3d": {"fluent-flat"}, "noto": {"noto-v1"}}
SHIPPED = ARCHIVE.with_name("emojidg_unlabelled.zip")
SHIPPED_ONE_IN = 4
NOT_SHIPPED = {"emojione-v1", "wi"}  # share-alike, and a font


def styles_for(target: str) -> list[str]:
    """The styles of the pool that a student may see whose target domain is `target`.

    >>> "noto-v1" in styles_for("noto"), "noto" in styles_for("twemoji")
    (False, True)
    """
    return [style for style in STYLES if style != target and style not in SAME_HAND.get(target, set())]


def write_pool(modules: Path, out: Path) -> Counter[str]:
    """Write every drawing of the pool; how many of each style.

    modules: folder `node_modules` with the pinned packages
    """
    families = HeldOut(ARCHIVE).families
    counts: Counter[str] = Counter()
    for drawing in training_drawings(modules)[0]:
        if drawing.concept.family in families:
            continue
        counts[drawing.style] += 1
        file = (
            out / drawing.style / f"{counts[drawing.style]:04d}-{drawing.concept.name.replace('/', '-')}.webp"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(webp_from_picture(drawing.picture))
    return counts


def shipped_drawings(pool: Path) -> dict[str, bytes]:
    """The drawings of the pool that are shipped, by style/file.

    pool: a folder that `write_pool` filled
    """
    chosen: dict[str, bytes] = {}
    for style in sorted(set(STYLES) - NOT_SHIPPED):
        for path in sorted((pool / style).iterdir()):
            data = path.read_bytes()
            if int(hashlib.sha256(data).hexdigest(), 16) % SHIPPED_ONE_IN == 0:
                chosen[f"{style}/{path.name}"] = data
    with zipfile.ZipFile(ARCHIVE) as opened:
        known = [_look(opened.read(name)) for name in opened.namelist() if name.endswith(".webp")]
    same = first_same_picture([_look(data) for data in chosen.values()], known)
    return {name: data for (name, data), other in zip(chosen.items(), same, strict=True) if other is None}


def _look(webp: bytes) -> bytes:
    return look_of(Image.open(io.BytesIO(webp)).convert("RGB"))


def write_archive(pool: Path, archive: Path) -> int:
    """Write the shipped part of the pool; how many drawings it holds."""
    drawings = shipped_drawings(pool)
    packages = DOMAINS | EXTRA_STYLES | ICON_PACKAGES
    styles = sorted({name.partition("/")[0] for name in drawings})
    not_for = {target: sorted({target, *SAME_HAND.get(target, ())}) for target in sorted(DOMAINS)}
    head = (
        "# Sources of the drawings without labels\n\nEach folder holds drawings of one work under that "
        "work's own licence. The folder `openmoji` is adapted material under CC BY-SA 4.0 and stays under "
        "it. The authors do not endorse this benchmark.\n"
    )
    attribution = [head, *(entry_of_package(f"{style}/", packages[style]) for style in styles)]
    entries = drawings | {
        "ATTRIBUTION.md": "\n".join(attribution).encode(),
        NOT_FOR: (json.dumps(not_for, indent=1) + "\n").encode(),
    }
    write_zip({f"{archive.stem}/{name}": data for name, data in entries.items()}, archive)
    return len(drawings)


def main() -> None:
    """Writes the pool and prints how many drawings of each style it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--packages", type=Path, help="npm folder to fill or to use again [default: temporary]"
    )
    parser.add_argument("--archive", type=Path, help=f"write the shipped part, too [{SHIPPED.name}]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = DOMAINS | EXTRA_STYLES | ICON_PACKAGES
        modules = install_packages(options.packages or Path(scratch), packages)
        counts = write_pool(modules, options.out)
    for style, count in sorted(counts.items()):
        print(f"{style:<28}{count:>6}")
    print(f"{'all':<28}{sum(counts.values()):>6}")
    if options.archive:
        print(f"{'shipped':<28}{write_archive(options.out, options.archive):>6}")


if __name__ == "__main__":
    main()
