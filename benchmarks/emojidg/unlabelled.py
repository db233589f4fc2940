"""Writes a pool of drawings without labels for EmojiDG's students: OUT/<style>/<drawing>.webp.

    python -m benchmarks.emojidg.unlabelled OUT [--packages DIR]

The drawings are those of the teacher's training data (see teacher_data.py) without any emoji or icon of a
val or test family, whatever its style. `styles_for` names the folders that a student may see: all but those
by the hand that drew its target.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.emojidg.build import ARCHIVE, webp_from_picture
from benchmarks.emojidg.drawings import DOMAINS, EXTRA_STYLES, install_packages
from benchmarks.emojidg.icons import ICON_PACKAGES
from benchmarks.emojidg.teacher_data import HeldOut, training_drawings

STYLES = (*DOMAINS, *EXTRA_STYLES, *ICON_PACKAGES)
# Drawings by the same hand as a target's: its older version, or the same drawing without its shading.
SAME_HAND = {"fluent-3d": {"fluent-flat"}, "noto": {"noto-v1"}}


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


def main() -> None:
    """Writes the pool and prints how many drawings of each style it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--packages", type=Path, help="npm folder to fill or to use again [default: temporary]"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = DOMAINS | EXTRA_STYLES | ICON_PACKAGES
        modules = install_packages(options.packages or Path(scratch), packages)
        counts = write_pool(modules, options.out)
    for style, count in sorted(counts.items()):
        print(f"{style:<28}{count:>6}")
    print(f"{'all':<28}{sum(counts.values()):>6}")


if __name__ == "__main__":
    main()
