"""The teacher's training data: captioned drawings, none of which is a test or val image of EmojiDG.

A vendor's data is broader than its client's: twelve drawing styles, eight icon sets, and emoji outside the
twelve classes. Held out are, in EmojiDG's five styles, every emoji whose family is a test or val family
(skin-tone variants are never drawn); and, in every style, every drawing that looks like a test or val image
of the five styles. Other styles may show the same concepts, each drawn by another hand.
"""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.emojidg.build import ARCHIVE
from benchmarks.emojidg.concepts import Concept, load_concepts
from benchmarks.emojidg.drawings import DOMAINS, EMOJIBASE, EXTRA_STYLES, Style, is_blank
from benchmarks.emojidg.icons import ICON_SETS, icon_concepts

HELD_OUT = ("val", "test")
# Fluent's flat drawings are its 3D drawings without the shading: 197 of them lie within 0.08 (below) of a val
# or test image, mostly the same emoji in 3D. So it is treated like the five, though it is no domain.
GUARDED_STYLES = (*DOMAINS, "fluent-flat")
# Root mean square difference (grey values in [0, 1]) to a held-out image, both shrunk to 16 px, below which a
# drawing is left out: of any emoji, and of the same emoji (noto-v1's comet is noto's comet: 0.004).
NEAR_RMS, NEAR_SAME_RMS = 0.05, 0.08
LOOK_PX = 16
SUBGROUPS_LEFT_OUT = {"country-flag", "subdivision-flag", "skin-tone", "hair-style"}

LABEL_TEMPLATES = ("{}", "a photo of a {}", "a drawing of a {}", "an emoji of a {}")
KIND_TEMPLATES = ("{}", "a {}", "a photo of a {}", "a drawing of a {}", "an emoji of a {}", "an icon of a {}")


@dataclass(frozen=True)
class Captioned:
    """One drawing the teacher may see."""

    style: str
    concept: Concept
    picture: Image.Image


def training_drawings(
    modules: Path, archive: Path = ARCHIVE
) -> tuple[list[Captioned], dict[str, Counter[str]]]:
    """All drawings the teacher may see, and per style how many were 'kept', 'held out' and 'look-alike'.

    modules: folder `node_modules` with the pinned packages of DOMAINS, EXTRA_STYLES and ICON_SETS
    archive: EmojiDG as it is shipped; its val and test images are what is kept from the teacher
    """
    guard = HeldOut(archive)
    concepts = [c for c in load_concepts(modules / EMOJIBASE.name) if c.subgroup not in SUBGROUPS_LEFT_OUT]
    kept: list[Captioned] = []
    counts: dict[str, Counter[str]] = {}
    for name, package in (DOMAINS | EXTRA_STYLES).items():
        style = Style(modules, package)
        counts[name] = Counter()
        drawn = []
        for concept in concepts:
            picture = style.draw(concept.code, concept.label)
            if picture is None or is_blank(picture):
                continue
            if name in GUARDED_STYLES and concept.family in guard.families:
                counts[name]["held out"] += 1
            else:
                drawn.append(Captioned(name, concept, picture))
        kept += guard.without_look_alikes(drawn, counts[name])
    for name, icons in ICON_SETS.items():
        style = Style(modules, icons.package)
        counts[name] = Counter()
        pictures = ((concept, style.draw_icon(icon)) for icon, concept in icon_concepts(modules, icons))
        drawn = [Captioned(name, c, picture) for c, picture in pictures if picture and not is_blank(picture)]
        kept += guard.without_look_alikes(drawn, counts[name])
    return kept, counts


class HeldOut:
    """EmojiDG's val and test images: their families, and what they look like."""

    def __init__(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as opened:
            rows = list(csv.DictReader(io.StringIO(opened.read("emojidg/groups.csv").decode())))
            held = [row for row in rows if row["split"] in HELD_OUT]
            images = [Image.open(io.BytesIO(opened.read(f"emojidg/{row['image']}"))) for row in held]
        # A family of one class holds out emoji of that family wherever they stand: the cautious side.
        self.families = {row["group"].split("/")[1] for row in held}
        self.stems = np.array([Path(row["image"]).stem for row in held])  # (N,)
        self.looks = _looks(images)  # (N, LOOK_PX * LOOK_PX * 3)

    def without_look_alikes(self, drawn: Sequence[Captioned], count: Counter[str]) -> list[Captioned]:
        """The drawings that look like no held-out image; adds to `count` how many do and how many do not."""
        near = self.looks_like_one(drawn)
        count.update({"look-alike": int(near.sum()), "kept": int((~near).sum())})
        return [item for item, is_near in zip(drawn, near, strict=True) if not is_near]

    def looks_like_one(self, drawn: Sequence[Captioned]) -> npt.NDArray[np.bool_]:
        """Whether each drawing looks like a held-out image; (B,)."""
        looks = _looks([item.picture for item in drawn])
        cross = looks @ self.looks.T / looks.shape[1]
        squared = (looks**2).mean(1)[:, None] + (self.looks**2).mean(1)[None] - 2 * cross  # (B, N)
        same = np.array([item.concept.name for item in drawn])[:, None] == self.stems[None]
        limit = np.where(same, NEAR_SAME_RMS, NEAR_RMS) ** 2
        return np.asarray((squared < limit).any(axis=1))


def _looks(pictures: Iterable[Image.Image]) -> npt.NDArray[np.float64]:
    size = (LOOK_PX, LOOK_PX)
    small = [picture.convert("RGB").resize(size, Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(s, np.float64).ravel() / 255 for s in small])


def concept_captions(concept: Concept) -> list[str]:
    """Captions that tell this concept from others: label, tags, kind.

    >>> fox = Concept("1f98a", "fox", "animals-nature", "animal-mammal", ("face",), "fox", "mammal")
    >>> concept_captions(fox)[-3:]
    ['fox, face', 'fox, a mammal animal', 'fox, a mammal']
    """
    label = concept.label.replace("\u2019", "'").lower()
    captions = [template.format(label) for template in LABEL_TEMPLATES]
    captions += [f"{label}, {tag}" for tag in concept.tags[:2]]
    named = [kinds(concept)[2], *class_words(concept)]
    return [*captions, *(f"{label}, a {word}" for word in named)]


def kind_captions(concept: Concept) -> list[str]:
    """Captions that name the kind only; many concepts share each.

    >>> fox = Concept("1f98a", "fox", "animals-nature", "animal-mammal", (), "fox", "mammal")
    >>> kind_captions(fox)[:5]
    ['animal mammal', 'animal', 'mammal animal', 'nature', 'a animal mammal']
    """
    words = kinds(concept)
    return list(dict.fromkeys(template.format(word) for template in KIND_TEMPLATES for word in words))


def class_captions(concept: Concept) -> list[str]:
    """Captions that name the class only; none for a concept outside the twelve classes.

    >>> fox = Concept("1f98a", "fox", "animals-nature", "animal-mammal", (), "fox", "mammal")
    >>> class_captions(fox)[:3]
    ['mammal', 'a mammal', 'a photo of a mammal']
    """
    return [template.format(word) for template in KIND_TEMPLATES for word in class_words(concept)]


def class_words(concept: Concept) -> list[str]:
    """The class as a caption says it, as a list of one; empty outside the twelve classes."""
    return [concept.category.replace("_", " ")] if concept.category else []


def kinds(concept: Concept) -> list[str]:
    """Ways to say what kind of thing a concept is, from emojibase's names of its subgroup and group.

    The subgroup as it stands, its first word (the head: 'animal', 'person'), its words in English order;
    then each word of the group. The subgroup's last word alone would mislead: 'gesture' for
    'person-gesture' pulls people towards hands.

    >>> kinds(Concept("1f3c3", "person running", "people-body", "person-activity", (), "running", "person"))
    ['person activity', 'person', 'activity person', 'people', 'body']
    """
    words = concept.subgroup.split("-")
    group = [word[:-1] if word.endswith("s") else word for word in concept.group.split("-") if word]
    return [" ".join(words), words[0], " ".join([*words[1:], words[0]]), *group]
