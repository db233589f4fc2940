"""Icon sets that only the teacher sees: without emoji codes, but their categories tell an icon's kind."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.emojidg.concepts import Concept
from benchmarks.emojidg.drawings import Package

# What a set's category or the words of a name say of an icon: subgroup (emojibase's if it has one), class.
Kind = tuple[str, str | None]
WEATHER: Kind = ("sky-weather", "weather_symbol")
CLOTHES: Kind = ("clothing", "clothing")
FACE: Kind = ("face", "smiley_face")
HAND: Kind = ("hand", "hand_gesture")
PERSON: Kind = ("person", "person")
SHAPE: Kind = ("geometric", "geometric_shape")
BUILDING: Kind = ("place-building", "building")
LETTER: Kind = ("alphanum", "letter_sign")
CLOCK: Kind = ("time", "clock")
ANIMAL: Kind = ("animal", None)
FOOD: Kind = ("food", None)
VEHICLE: Kind = ("transport", None)

_WEATHER_WORDS = (
    r"\b(cloud|cloudy|rain|snow|sun|sunny|sunset|sunrise|day|night|thunderstorms?|lightning|fog|wind|windy|hail"
    r"|sleet|storm|tornado|hurricane|rainbow|snowflake|haze|drizzle|overcast|mist|raindrops?|showers|rainy)\b"
)
_CLOTHES_WORDS = (
    r"\b(shirt|t-shirt|boots?|hat|gloves?|gauntlet|trousers|shoes?|dress|robe|armor|cap|helmet|helm|cape|skirt"
    r"|scarf|socks?|sandal|jacket|coat|belt|kimono|poncho|hoodie|underwear|shorts|vest|glasses|cowboy-boot)\b"
)
_CLOCK_WORDS = r"\b(clock|stopwatch|hourglass|watch|time|timer)\b"


@dataclass(frozen=True)
class IconSet:
    """A set, the categories of its metadata that are used, and name patterns where it has none."""

    package: Package
    categories: Mapping[str, Kind]
    patterns: Mapping[str, Kind]


def _package(name: str, version: str, author: str, licence: str, url: str, source: str) -> Package:
    return Package(f"@iconify-json/{name}", version, author, licence, url, f"https://github.com/{source}")


_CC_BY = "https://creativecommons.org/licenses/by/4.0/"
ICON_SETS: dict[str, IconSet] = {
    "mdi": IconSet(
        _package(
            "mdi",
            "1.2.3",
            "Pictogrammers",
            "Apache-2.0",
            "https://github.com/Templarian/MaterialDesign/blob/master/LICENSE",
            "Templarian/MaterialDesign",
        ),
        {
            "Animal": ANIMAL,
            "Clothing": CLOTHES,
            "Emoji": FACE,
            "Food / Drink": FOOD,
            "People / Family": PERSON,
            "Shape": SHAPE,
            "Alpha / Numeric": LETTER,
            "Transportation + Road": VEHICLE,
            "Weather": WEATHER,
        },
        {r"\bclock\b": CLOCK},
    ),
    "fa7-solid": IconSet(
        _package("fa7-solid", "1.2.5", "Dave Gandy", "CC-BY-4.0", _CC_BY, "FortAwesome/Font-Awesome"),
        {
            "Animals": ANIMAL,
            "Buildings": BUILDING,
            "Clothing": CLOTHES,
            "Emoji": FACE,
            "Food": FOOD,
            "Hands": HAND,
            "Vehicles": VEHICLE,
            "Weather": WEATHER,
        },
        {},
    ),
    "icon-park": IconSet(
        _package(
            "icon-park",
            "1.2.4",
            "ByteDance",
            "Apache-2.0",
            "https://github.com/bytedance/IconPark/blob/master/LICENSE",
            "bytedance/IconPark",
        ),
        {
            "Animals": ANIMAL,
            "Build": BUILDING,
            "Clothes": CLOTHES,
            "Emoji": FACE,
            "Foods": FOOD,
            "Graphics": SHAPE,
            "Hands": HAND,
            "Peoples": PERSON,
            "Weather": WEATHER,
        },
        {r"\b(clock|stopwatch|watch)\b": CLOCK},
    ),
    "healthicons": IconSet(
        _package(
            "healthicons",
            "1.2.13",
            "Resolve to Save Lives",
            "MIT",
            "https://github.com/resolvetosavelives/healthicons/blob/main/LICENSE",
            "resolvetosavelives/healthicons",
        ),
        {"Emotions": FACE, "Vehicles": VEHICLE},
        {},
    ),
    "streamline-ultimate-color": IconSet(
        _package(
            "streamline-ultimate-color",
            "1.2.2",
            "Streamline",
            "CC-BY-4.0",
            _CC_BY,
            "webalys-hq/streamline-vectors",
        ),
        {"Weather": WEATHER, "FoodDrinks": FOOD, "Transportation": VEHICLE, "Users": PERSON},
        {},
    ),
    "meteocons": IconSet(
        _package(
            "meteocons",
            "1.2.4",
            "Bas Milius",
            "MIT",
            "https://github.com/basmilius/weather-icons/blob/dev/LICENSE",
            "basmilius/weather-icons",
        ),
        {},
        {_WEATHER_WORDS: WEATHER},
    ),
    "wi": IconSet(
        _package(
            "wi",
            "1.2.1",
            "Erik Flowers",
            "OFL-1.1",
            "https://scripts.sil.org/cms/scripts/page.php?site_id=nrsi&id=OFL",
            "erikflowers/weather-icons",
        ),
        {},
        {_WEATHER_WORDS: WEATHER, _CLOCK_WORDS: CLOCK},
    ),
    "game-icons": IconSet(
        _package(
            "game-icons",
            "1.2.4",
            "game-icons.net",
            "CC-BY-3.0",
            "https://github.com/game-icons/icons/blob/master/license.txt",
            "game-icons/icons",
        ),
        {},
        {
            r"\b(rain|raining|snow|snowing|sun|sunrise|sunset|tornado|lightning|snowflake)\b": WEATHER,
            _CLOTHES_WORDS: CLOTHES,
        },
    ),
}
ICON_PACKAGES = {name: icons.package for name, icons in ICON_SETS.items()}


def icon_concepts(modules: Path, icons: IconSet) -> Iterator[tuple[str, Concept]]:
    """Name and concept of every icon whose category or name tells its kind; the name is its label.

    modules: folder `node_modules` with the set's package
    """
    folder = modules / icons.package.name
    kind_of: dict[str, Kind] = {}
    if icons.categories:
        listed = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["categories"]
        for category, kind in icons.categories.items():
            kind_of |= dict.fromkeys(listed[category], kind)
    drawn = json.loads((folder / "icons.json").read_text(encoding="utf-8"))["icons"]
    for name in sorted(drawn):
        named = [kind for pattern, kind in icons.patterns.items() if re.search(pattern, name)]
        told = [*named, *([kind_of[name]] if name in kind_of else [])]
        if told:
            kind = told[0]
            label = label_of(name)
            yield name, Concept(f"icon:{label}", label, "", kind[0], (), label, kind[1])


def label_of(name: str) -> str:
    """What an icon shows: its name without words for how it is drawn, and without a variant's number.

    >>> label_of("weather-partly-rainy"), label_of("angry-outline-24px"), label_of("single-man-2")
    ('weather partly rainy', 'angry', 'single man')
    """
    words = [w for w in name.split("-") if w not in {"outline", "fill", "24px", "variant", "box"}]
    return " ".join(words[:-1] if len(words) > 1 and words[-1].isdigit() else words)
