"""EmojiDG's concepts: which emoji belong to which class, their families, and the family-wise split.

A *concept* is one emoji (a codepoint sequence), drawn once in each style. A *family* is what stays of its
label when gender, direction, size and colour words are gone: 'man firefighter', 'woman firefighter' and
'firefighter' are one family. The split is drawn over families, so no family sits on two sides.
"""

import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.emojidg.classes import CLASSES, DROPPED, DROPPED_IN, MERGED

SPLITS = ("train", "val", "test")
SHARES = {"train": 0.5, "val": 0.1, "test": 0.4}  # of each class's families; train takes what rounding leaves
DRAWS = 200  # splits drawn for each class, of which the best balanced is kept
MIN_FAMILIES = 2  # families a class must have in each split


@dataclass(frozen=True)
class Concept:
    """One emoji: `code` is its hexcode in lower case without fe0f; `category` is None outside the twelve."""

    code: str
    label: str
    group: str
    subgroup: str
    tags: tuple[str, ...]
    family: str
    category: str | None

    @property
    def name(self) -> str:
        """File stem: ascii slug of the label, then the code, so that it is readable and unique."""
        return f"{slug(self.label)}-{self.code}"


def slug(text: str) -> str:
    """Lower-case ascii words of `text` joined by hyphens.

    >>> slug("Piñata: the 1st")
    'pinata-the-1st'
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9#*]+", "-", ascii_text).strip("-").replace("#", "hash").replace("*", "asterisk")


def bare_code(hexcode: str) -> str:
    """Hexcode in lower case without the variation selector fe0f, which packages treat differently.

    >>> bare_code("2639-FE0F")
    '2639'
    """
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def family_of(label: str, subgroup: str) -> str:
    r"""Concept family of a label.

    label:    emojibase's English label
    subgroup: emojibase's subgroup, for words that make no new concept in that subgroup only

    >>> {family_of(f"{who}firefighter", "person-role") for who in ("", "man ", "woman ")}
    {'firefighter'}
    >>> family_of("one-thirty", "time") == family_of("one o\u2019clock", "time")
    True
    >>> family_of("large orange diamond", "geometric")
    'diamond'
    """
    text = label.lower().replace("\u2019", "'").replace(":", " ")
    dropped = DROPPED | DROPPED_IN.get(subgroup, frozenset())
    words = [word for word in text.split() if word not in dropped]
    left = " ".join(words)
    if not left and not subgroup.startswith("person"):
        left = text
    for pattern, family in MERGED:
        if found := re.search(pattern, left):
            return slug(found.expand(family))
    return slug(re.sub(r"^(with|in|of|wearing) ", "", left))


def load_concepts(emojibase: Path) -> list[Concept]:
    """Every base emoji of emojibase that has a subgroup, in Unicode order.

    emojibase: folder of the npm package `emojibase-data`
    """
    entries = json.loads((emojibase / "en/data.json").read_text(encoding="utf-8"))
    names = json.loads((emojibase / "meta/groups.json").read_text(encoding="utf-8"))
    concepts = []
    for entry in entries:
        if "subgroup" not in entry:  # regional indicators
            continue
        subgroup = names["subgroups"][str(entry["subgroup"])]
        concepts.append(
            Concept(
                code=bare_code(entry["hexcode"]),
                label=entry["label"],
                group=names["groups"][str(entry["group"])],
                subgroup=subgroup,
                tags=tuple(entry.get("tags", ())),
                family=family_of(entry["label"], subgroup),
                category=category_of(entry["label"], subgroup),
            )
        )
    return concepts


def category_of(label: str, subgroup: str) -> str | None:
    """Class of an emoji, or None if no class claims it.

    >>> category_of("firefighter", "person-role"), category_of("brick", "place-building")
    ('person', None)
    """
    lowered = label.lower()
    for name, rule in CLASSES.items():
        if lowered in rule.plus or (subgroup in rule.subgroups and lowered not in rule.without):
            return name
    return None


def split_families(concepts: Iterable[Concept], seed: int) -> dict[tuple[str, str], str]:
    """Split of each (class, family): 50/10/40 % of a class's families, drawn from `seed`.

    Raises ValueError if a class has too few families to give each split two.
    """
    sizes: dict[str, Counter[str]] = {}
    for concept in concepts:
        if concept.category is not None:
            sizes.setdefault(concept.category, Counter())[concept.family] += 1
    split: dict[tuple[str, str], str] = {}
    for category, families in sorted(sizes.items()):
        sides = _sides(category, len(families))
        # Families differ in size (ten circles, one yin-yang): of many draws keep the one whose images,
        # too, come nearest to the shares. Only counts decide.
        draws = [
            dict(zip(_shuffled(families, f"{seed}/{category}/{d}"), sides, strict=True)) for d in range(DRAWS)
        ]
        best = min(draws, key=lambda draw: _imbalance(draw, families))
        split |= {(category, family): side for family, side in best.items()}
    return split


def _shuffled(families: Iterable[str], seed: str) -> list[str]:
    order = sorted(families)
    random.Random(seed).shuffle(order)
    return order


def _imbalance(draw: Mapping[str, str], sizes: Mapping[str, int]) -> float:
    shares: Counter[str] = Counter()
    for family, side in draw.items():
        shares[side] += sizes[family]
    return sum(abs(shares[side] / sum(sizes.values()) - SHARES[side]) for side in SPLITS)


def _sides(category: str, count: int) -> Sequence[str]:
    val = max(MIN_FAMILIES, round(SHARES["val"] * count))
    test = max(MIN_FAMILIES, round(SHARES["test"] * count))
    if count - val - test < MIN_FAMILIES:
        raise ValueError(f"class {category}: {count} families, expected at least {3 * MIN_FAMILIES}")
    return ["val"] * val + ["test"] * test + ["train"] * (count - val - test)
