"""The texts of each class, from which the teacher's zero-shot classifier is made.

The six styles are the paper's. Two of them name domains, and
`per_domain` and `per_domain_size` name the target's too: that is knowledge of the target.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vl2v_deploy.errors import DataError, did_you_mean
from vl2v_deploy.names import composed, shortened, shown
from vl2v_deploy.recipe import DataRecipe, PromptsRecipe
from vl2v_deploy.recipe.yaml_text import problem_in, tree_from_yaml
from vl2v_deploy.regular_files import read_text


def class_prompts(
    prompts: PromptsRecipe, data: DataRecipe, classes: Sequence[str], domains: Sequence[str], target: str
) -> tuple[tuple[str, ...], ...]:
    """The prompts of each of the K classes, at least one per class; their embeddings are averaged.

    classes: K folder names, in the order of the logits
    domains: folder names of all domains, the target's among them
    target:  the domain that stays unseen; style per_domain_sources leaves it out

    Raises DataError when a file of class names or prompts cannot be used, or names a class that is not there.
    """
    words = class_words(data, classes)
    own = _own_prompts(prompts, data, classes)
    templates = _templates(prompts, domains, target)
    texts = []
    for index, folder in enumerate(classes):
        called = str(index) if prompts.style == "class_index" else words[folder]
        texts.append(own.get(folder) or tuple(template.replace("{class}", called) for template in templates))
    return tuple(texts)


def target_notice(prompts: Sequence[Sequence[str]], target: str) -> list[str]:
    """Says which prompts name the target domain, whose style is supposed to be unknown; nothing if none does.

    prompts: of each class, as `class_prompts` gives them

    """
    texts = [text for of_class in prompts for text in of_class]
    name = re.compile(rf"\b{re.escape(_words(target))}\b")
    naming = [text for text in texts if name.search(_words(text))]
    if not naming:
        return []
    return [
        f"{shown(target)}: {len(naming)} of {len(texts)} prompts name this unseen domain (such as "
        f"{shortened(naming[0])}): the teacher's zero-shot classifier, and what is distilled from it, know "
        "of its style. prompts.templates takes prompts that fit any style."
    ]


def class_words(data: DataRecipe, classes: Sequence[str]) -> dict[str, str]:
    """What each class is called in prompts: its name in data.class_names, else its folder's; `_` is a space.

    classes: folder names

    Raises DataError when the file of names cannot be used, or names a class that is not there.
    """
    source, names = _class_names(data)
    names = _of_classes(
        names, classes, source, whole=isinstance(data.class_names, str) and bool(data.classes)
    )
    for folder, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{source}: {folder}: expected words for prompts, got {name!r}")
    return {folder: names.get(folder, folder).replace("_", " ") for folder in classes}


def named_classes(prompts: PromptsRecipe, data: DataRecipe) -> tuple[str, ...]:
    """The class folders that a recipe itself names, sorted; for when the data is not there to be asked.

    Raises DataError when a file of names or prompts cannot be used.
    """
    return tuple(sorted({*(data.classes or ()), *_class_names(data)[1], *_class_prompts(prompts)[1]}))


def classes_from_file(path: Path, source: str) -> dict[str, Any]:
    """The classes of a file, in its order; for each its name in prompts, a list of whole prompts, or None.

    path:   one class per line; CSV with the columns class,name; YAML or JSON {class: name, prompts or null}
    source: what the errors call it

    Raises DataError when the file cannot be used, or names a class twice; values are taken as they are.
    """
    match path.suffix.lower():
        case ".csv":
            return dict(_csv_names(path, source))
        case ".yaml" | ".yml" | ".json":
            return _mapping(path, source)
    classes: dict[str, Any] = {}
    for number, line in enumerate(_text(path, source).rstrip().splitlines(), 1):
        name = line.strip()
        if not name:
            raise DataError(f"{source}: line {number} is empty: expected a class on every line")
        if name in classes:
            raise DataError(f"{source}: line {number}: class {name!r} occurs twice")
        classes[name] = None
    return classes


def _templates(prompts: PromptsRecipe, domains: Sequence[str], target: str) -> tuple[str, ...]:
    match prompts.style:
        case "templates":
            return prompts.templates
        case "class_name":
            return ("{class}",)
        case "photo" | "class_index":
            return ("a photo of a {class}",)
        case "per_domain":
            return tuple(f"{_a(domain)} of a {{class}}" for domain in domains)
        case "per_domain_size":
            return tuple(
                f"{_a(domain)} of a {size} {{class}}" for domain in domains for size in ("small", "big")
            )
        case "per_domain_sources":
            return tuple(f"{_a(domain)} of a {{class}}" for domain in domains if domain != target)


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).lower().strip()


def _a(domain: str) -> str:
    """
    >>> _a("art_painting"), _a("Real-World")
    ('an art painting', 'a Real World')
    """
    words = domain.replace("_", " ").replace("-", " ")
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _class_names(data: DataRecipe) -> tuple[str, Mapping[str, Any]]:
    """What data.class_names holds, and what to call it in errors."""
    source, names = "data.class_names", data.class_names
    if not isinstance(names, str):
        return source, names
    source, path = f"{source}: {names}", Path(names)
    return source, _csv_names(path, source) if path.suffix.lower() == ".csv" else _mapping(path, source)


def _class_prompts(prompts: PromptsRecipe) -> tuple[str, Mapping[str, Any]]:
    """What prompts.per_class holds, and what to call it in errors."""
    source, own = "prompts.per_class", prompts.per_class or {}
    if not isinstance(own, str):
        return source, own
    source = f"{source}: {own}"
    return source, _mapping(Path(own), source)


def _own_prompts(
    prompts: PromptsRecipe, data: DataRecipe, classes: Sequence[str]
) -> Mapping[str, tuple[str, ...]]:
    source, own = _class_prompts(prompts)
    own = _of_classes(own, classes, source, whole=isinstance(prompts.per_class, str) and bool(data.classes))
    for folder, texts in own.items():
        if (
            not isinstance(texts, list | tuple)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            raise DataError(f"{source}: {folder}: expected a list of at least one prompt, got {texts!r}")
    return {folder: tuple(texts) for folder, texts in own.items()}


def _of_classes(
    named: Mapping[str, Any], classes: Sequence[str], source: str, *, whole: bool
) -> Mapping[str, Any]:
    """The entries of these classes; DataError when there is one of another class.

    whole: a file of the whole data set, of which data.classes uses a part: the rest is left out
    """
    named = {composed(name): value for name, value in named.items()}
    if whole:
        return {name: value for name, value in named.items() if name in classes}
    for name in named:
        if name not in classes:
            raise DataError(f"{source}: there is no class {name!r}{did_you_mean(name, classes)}")
    return named


def _mapping(path: Path, source: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, its keys texts."""
    text = _text(path, source)
    try:
        if path.suffix.lower() == ".json":
            tree = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, source))
        else:
            tree = tree_from_yaml(text)
    except yaml.YAMLError as error:
        raise DataError(f"{source}: is not YAML or JSON: {problem_in(error)}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{source}: is not YAML or JSON: {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{source}: expected class folders and what belongs to each, as folder: ...")
    for key in tree:
        if not isinstance(key, str):  # YAML reads an unquoted no, 1 or 2024-01-01 as something else
            raise DataError(
                f"{source}: {shortened(key)} is not read as text; write the class folder in quotes"
            )
    return tree


def _once(pairs: Sequence[tuple[str, Any]], source: str) -> dict[str, Any]:
    """The mapping of these pairs; DataError for a key that comes twice, of which parsers keep the last."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1)
        raise DataError(f"{source}: {twice!r} occurs twice")
    return mapping


def _csv_names(path: Path, source: str) -> dict[str, str]:
    rows = list(csv.DictReader(io.StringIO(_text(path, source), newline="")))
    if not rows or not {"class", "name"} <= rows[0].keys():
        raise DataError(f"{source}: expected a header with the columns class,name, and one line per class")
    names: dict[str, str] = {}
    for row in rows:
        if names.setdefault(row["class"], row["name"]) != row["name"]:
            raise DataError(f"{source}: class {row['class']!r} is named twice")
    return names


def _text(path: Path, source: str) -> str:
    try:
        return read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise DataError(f"{source}: cannot be read: {reason}") from error
