"""EmojiDG's tables: which emojibase subgroups make a class, and which words make no new concept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassRule:
    """Which emoji make a class: whole emojibase subgroups, minus and plus some labels."""

    subgroups: tuple[str, ...]
    without: frozenset[str] = frozenset()
    plus: frozenset[str] = frozenset()


def _labels(text: str) -> frozenset[str]:
    return frozenset(label.strip() for label in text.split(","))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Left out by label: what the class name does not describe (a traffic light is no vehicle, a brick no
# building) and what another class would claim just as well (a vehicle's station).
CLASSES: dict[str, ClassRule] = {
    "building": ClassRule(
        ("place-building", "place-religious"),
        without=_labels("building construction, brick, rock, wood, wedding, statue of liberty, kaaba"),
        plus=_labels("tent, circus tent, cityscape, station"),
    ),
    "clock": ClassRule(("time",)),
    "clothing": ClassRule(
        ("clothing",),
        without=_labels(
            "hair pick, lipstick, prayer beads, ring, gem stone, folding hand fan, shopping bags, "
            "clutch bag, handbag, purse, backpack, crown"
        ),
        plus=_labels("martial arts uniform, running shirt, reminder ribbon, diving mask"),
    ),
    "geometric_shape": ClassRule(
        ("geometric",),
        plus=_labels(
            "hollow red circle, eight-pointed star, eight-spoked asterisk, dotted six-pointed star, "
            "star of david, diamond suit, heart suit, yin yang"
        ),
    ),
    "hand_gesture": ClassRule(
        (
            "hand-fingers-open",
            "hand-fingers-partial",
            "hand-single-finger",
            "hand-fingers-closed",
            "hands",
        )
    ),
    "land_vehicle": ClassRule(
        ("transport-ground",),
        without=_labels(
            "station, bus stop, motorway, railway track, oil drum, fuel pump, wheel, police car light, "
            "horizontal traffic light, vertical traffic light, stop sign, construction, mountain railway"
        ),
    ),
    "letter_sign": ClassRule(("alphanum", "keycap")),
    "mammal": ClassRule(("animal-mammal",), without=_labels("paw prints, pig nose")),
    "meal": ClassRule(
        ("food-prepared", "food-asian", "food-sweet"), without=_labels("salt, butter, honey pot, candy")
    ),
    "person": ClassRule(
        (
            "person",
            "person-gesture",
            "person-role",
            "person-fantasy",
            "person-activity",
            "person-sport",
            "person-resting",
        )
    ),
    "smiley_face": ClassRule(
        (
            "face-smiling",
            "face-affection",
            "face-tongue",
            "face-hand",
            "face-neutral-skeptical",
            "face-sleepy",
            "face-unwell",
            "face-hat",
            "face-glasses",
            "face-concerned",
            "face-negative",
        ),
        without=_labels("skull, skull and crossbones"),
    ),
    "weather_symbol": ClassRule(("sky-weather",), without=_labels("thermometer, ringed planet, milky way")),
}

# Words that make no new concept, whatever the class.
DROPPED = _words(
    "man woman men women person people man's woman's male female left right up down leftwards rightwards "
    "left-facing right-facing front-facing oncoming facing pointed waxing waning first last"
)
# Words that make no new concept in one emojibase subgroup only.
DROPPED_IN = {
    "animal-mammal": _words("face black guide service two-hump polar water"),
    "geometric": _words(
        "red orange yellow green blue purple brown black white large medium medium-small small"
    ),
    "sky-weather": _words("small large face glowing"),
    "transport-ground": _words("manual motorized high-speed bullet"),
    "clothing": _words("thong running flat high-heeled"),
}
# (pattern in what is left of the label, family); the first match decides.
MERGED: tuple[tuple[str, str], ...] = (
    (r"^$", "person"),
    (r"^(child|boy|girl)$", "child"),
    (r"^old(er)?$", "old-person"),
    (r"\bclaus$", "claus"),
    (r"^mer(man|maid|person)$", "merperson"),
    (r"^(prince|princess|with crown)$", "royalty"),
    (r"^(frowning|pouting)$", "frowning"),  # Twemoji draws both alike
    (r"feeding", "feeding-baby"),
    (r"^(with|wearing) (skullcap|headscarf|turban)$", "head-covering"),
    (r"wheelchair", "wheelchair"),
    (r"\bbiking$", "biking"),
    (r"^(.+)(-thirty| o'clock)$", r"\1-oclock"),
    (r"^hourglass", "hourglass"),
    (r"^(grinning|kissing) face\b", r"\1-face"),
    (r"^(slightly )?(smiling|frowning) face( with open mouth)?$", r"\2-face"),
    (r"^loudly crying face$", "crying-face"),
    (r"with tongue$", "face-with-tongue"),
    (r"with horns$", "face-with-horns"),
    (r"^(angry|enraged) face$", "angry-face"),
    (r"\bsmiling (face )?with smiling eyes$", "smiling-face"),
    (r"\bumbrella\b", "umbrella"),
    (r"^snowman", "snowman"),
    (r"^sun (behind|with)|^sun$", "sun"),
    (r"cloud with", "cloud-with-rain-or-snow"),
    (r"^(backhand )?index pointing", "index-pointing"),
    (r"^thumbs", "thumbs"),
    (r"\bfist$", "fist"),
    (r"^(raised|raised back of hand|raised hand|hand|waving hand|hand with fingers splayed)$", "hand"),
    (r"^palms? ", "palm"),
    (r"^pushing", "pushing-hand"),
    (r"^tram( car)?$", "tram"),
    (r"^light rail$", "tram"),
    (r"^(trolley|mini)?bus$", "bus"),
    (r"^(hollow )?(red )?circle$", "circle"),
    (r"six-pointed star|^star of david$", "six-pointed-star"),
    (r"^input latin", "input-latin"),
    (r"ice cream$", "ice-cream"),
    (r"flatbread$", "flatbread"),
    (r"cake$", "cake"),
    (r"post office$", "post-office"),
    (r"castle$", "castle"),
    (r"\bhotel$", "hotel"),
    (r"^derelict house$|^house( with garden)?$|^houses$", "house"),
    (r"tent$", "tent"),
    (r"sandal$", "sandal"),
    (r"helmet$", "helmet"),
    (r"^(safety|lab) (vest|coat)$|^coat$", "coat"),
    (r"(swimsuit|bikini)$", "swimwear"),
)
