"""Mutated recipes: each loads, or is refused by a RecipeError."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.workers import ROOT, Counts, run_part
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import dump_recipe, load_recipe, load_run_recipe, recipe_sha256

DOCUMENTED = (RecipeError,)
MOST_MUTATIONS = 4
ODD_VALUES = (
    *("", "~", "null", "yes", "no", "on", "0", "-1", "1e3", "1e999", ".inf", "-.inf", ".nan", "0x10", "0o17"),
    *("2024-01-31", "2024-13-45", "1:59:59", "2001-12-14t21:59:43.10-05:00", "9" * 5000, "0x" + "f" * 5000),
    *("!!int abc", "!!float x", "!!bool 7", "!!timestamp x", "!!binary =", "!!null x", "!!set {a, b}"),
    *("!!omap [a: 1]", "!!python/object/apply:os.system [true]", "!x y", "&a [*a]", "*nowhere", "<<: 1"),
    *(
        "[]",
        "{}",
        "[[]]",
        "{a: {b: {c: 1}}}",
        "[a, [b]]",
        "- - -",
        "? [a]",
        '"\\0"',
        '"\\ud800"',
        '"\\U0010FFFF"',
    ),
    *(
        "~nosuchuser/x",
        "/dev/zero",
        "..",
        "a" * 5000,
        '"a\\nb"',
        "'=1+1'",
        '"{class}"',
        "'{'",
        "%x",
        "@x",
        "`",
    ),
    *("adip", "[adip, erm]", "each", "builtin:emojidg", "builtin:x", "open_clip", "http", "cuda", "vit_tiny"),
)
ODD_TEXTS = (
    "\0",
    "\t",
    "\r",
    "\x85",
    "\u2028",
    "\ufeff",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "#",
    ": ",
    "- ",
    "{",
    "]",
)


@dataclass(frozen=True)
class Shared:
    """Texts of recipes that load, and the file that mutated ones are written to."""

    recipes: tuple[str, ...]
    file: Path


def run(seed: int, count: int) -> Counts:
    """`count` mutated recipes and --set overrides."""
    return run_part(__name__, seed, count)


def prepared(folder: Path) -> Shared:
    """The repository's own recipes."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    return Shared(tuple(texts), folder / "recipe.yaml")


def attempt(shared: Shared, rng: random.Random) -> None:
    """Load a mutated recipe as the CLI would; one that loads is written out, read back and hashed."""
    text = rng.choice(shared.recipes)
    for _ in range(rng.randint(0, MOST_MUTATIONS)):
        text = rng.choice(MUTATIONS)(text, rng)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = _damaged(content, rng)
    shared.file.write_bytes(content)
    overrides = [_override(text, rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    load = load_run_recipe if rng.random() < 0.2 else load_recipe
    recipe = load(shared.file, overrides)
    digest = recipe_sha256(recipe)
    shared.file.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(shared.file)
    if recipe_sha256(again) != digest:
        raise AssertionError("a recipe that is written out and read back has another hash")


def _value_swapped(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    places = [
        number for number, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")
    ]
    if not places:
        return text
    place = rng.choice(places)
    head = lines[place].partition(":")[0]
    lines[place] = f"{head}: {rng.choice(ODD_VALUES)}"
    return "\n".join(lines)


def _key_swapped(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
    key = rng.choice((*ODD_VALUES, *(line.partition(":")[0].strip() for line in lines)))
    lines[place] = f"{indent}{key}: {lines[place].partition(':')[2].strip() or rng.choice(ODD_VALUES)}"
    return "\n".join(lines)


def _lines_moved(text: str, rng: random.Random) -> str:
    """A line is repeated, dropped, indented or put elsewhere."""
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    line = lines[place]
    match rng.randrange(4):
        case 0:
            lines.insert(rng.randrange(len(lines) + 1), line)
        case 1:
            del lines[place]
        case 2:
            lines[place] = " " * rng.randint(1, 9) + line
        case 3:
            lines[place] = line.lstrip()
    return "\n".join(lines)


def _text_put_in(text: str, rng: random.Random) -> str:
    place = rng.randint(0, len(text))
    odd = rng.choice((*ODD_TEXTS, *ODD_VALUES, rng.choice(string.printable), chr(rng.randrange(0xD800))))
    return f"{text[:place]}{odd}{text[place + rng.choice((0, 0, 1, 5)) :]}"


def _cut(text: str, rng: random.Random) -> str:
    first, last = sorted(rng.randint(0, len(text)) for _ in range(2))
    return rng.choice((text[:first], text[:first] + text[last:]))


def _bomb(text: str, rng: random.Random) -> str:
    """Aliases of aliases, brackets in brackets, or a very long list, as the value of a known field."""
    match rng.randrange(4):
        case 0:
            names = string.ascii_lowercase[: rng.randint(2, 20)]
            bombs = [
                f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
                for before, name in zip(names, names[1:], strict=False)
            ]
            value = "{" + ", ".join([f"a: &{names[0]} [x, x]", *bombs]) + "}"
        case 1:
            depth = rng.choice((10, 60, 70, 500, 5000, 100_000))
            value = "[" * depth + "]" * depth
        case 2:
            value = f"[{'x, ' * rng.choice((100, 10_000, 300_000))}x]"
        case _:
            pairs = ", ".join(f"k{number}: v" for number in range(rng.choice((100, 10_000, 150_000))))
            value = f"{{{pairs}}}"
    return text.replace(
        "data:\n", f"data:\n  {rng.choice(('class_names', 'classes', 'root', 'x'))}: {value}\n", 1
    )


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    *(_value_swapped, _value_swapped, _value_swapped, _key_swapped, _key_swapped),
    *(_lines_moved, _lines_moved, _text_put_in, _text_put_in, _cut, _bomb),
)


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, or the whole in another encoding."""
    if rng.random() < 0.2:
        return content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _override(text: str, rng: random.Random) -> str:
    keys = [line.partition(":")[0].strip() for line in text.split("\n") if ":" in line]
    path = ".".join(rng.choice((*keys, "", "x", "0")) for _ in range(rng.choice((1, 2, 2, 2, 3, 9))))
    return rng.choice((f"{path}={rng.choice(ODD_VALUES)}", path, f"{path}=\udce9", f"{path}==", "="))
