from __future__ import annotations

from pathlib import Path

import pytest

from vl2v_deploy.data.domains import load_domains
from vl2v_deploy.data.prompts import class_prompts, target_notice
from vl2v_deploy.errors import DataError
from vl2v_deploy.recipe import DataRecipe, PromptsRecipe, load_recipe

CLASSES = ("alarm_clock", "dog")
DOMAINS = ("art_painting", "Real-World", "sketch")


def prompts_of(prompts: dict[str, object], **data: object) -> tuple[tuple[str, ...], ...]:
    return class_prompts(
        PromptsRecipe.model_validate(prompts),
        DataRecipe.model_validate({"root": "x", "target": "sketch"} | data),
        CLASSES,
        DOMAINS,
        "sketch",
    )


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("class_name", ["alarm clock"]),
        ("photo", ["a photo of a alarm clock"]),
        (
            "per_domain",
            [
                "an art painting of a alarm clock",
                "a Real World of a alarm clock",
                "a sketch of a alarm clock",
            ],
        ),
        (
            "per_domain_size",
            [
                "an art painting of a small alarm clock",
                "an art painting of a big alarm clock",
                "a Real World of a small alarm clock",
                "a Real World of a big alarm clock",
                "a sketch of a small alarm clock",
                "a sketch of a big alarm clock",
            ],
        ),
        ("per_domain_sources", ["an art painting of a alarm clock", "a Real World of a alarm clock"]),
        ("class_index", ["a photo of a 0"]),
    ],
)
def test_the_papers_six_styles(style: str, expected: list[str]) -> None:
    first, second = prompts_of({"style": style})
    assert list(first) == expected
    word = "1" if style == "class_index" else "dog"
    assert second == tuple(t.replace("alarm clock", word).replace("a 0", "a 1") for t in expected)


def test_templates_are_filled_one_by_one() -> None:
    templates = ["a {class}", "{class}, a kind of {class}"]
    assert prompts_of({"templates": templates}) == (
        ("a alarm clock", "alarm clock, a kind of alarm clock"),
        ("a dog", "dog, a kind of dog"),
    )


@pytest.mark.parametrize(
    ("target", "prompts", "naming"),
    [
        ("sketch", [["a sketch of a dog", "a dog"], ["A Sketch: cat", "a cat"]], "2 of 4"),
        ("art_painting", [["an art-painting of a dog"]], "1 of 1"),
        ("art_painting", [["a painting of a dog"]], None),
        ("art", [["a party"]], None),
    ],
)
def test_prompts_that_name_the_unseen_domain_are_told(
    target: str, prompts: list[list[str]], naming: str | None
) -> None:
    told = target_notice(prompts, target)
    assert told == [] if naming is None else naming in told[0] and repr(prompts[0][0]) in told[0]


def test_a_classes_own_prompts_replace_the_templates() -> None:
    own = {"dog": ["man's best friend", "a hound"]}
    assert prompts_of({"per_class": own, "style": "class_name"}) == (
        ("alarm clock",),
        ("man's best friend", "a hound"),
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.yaml", "dog: big_hound"),
        ("names.json", '{\n\t"dog": "big_hound"}'),
        ("names.csv", "\ufeffclass,name\r\ndog,big_hound\r\n"),
    ],
)
def test_class_names_from_a_file(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8", newline="")
    expected = (("alarm clock",), ("big hound",))
    assert prompts_of({"style": "class_name"}, class_names=str(tmp_path / file)) == expected
    assert prompts_of({"style": "class_name"}, class_names={"dog": "big_hound"}) == expected


@pytest.mark.parametrize("file", ["own.yaml", "own.json"])
def test_prompts_of_a_class_from_a_file(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text('{"dog": ["a hound", "a dog that barks"]}')
    assert prompts_of({"per_class": str(tmp_path / file)})[1] == ("a hound", "a dog that barks")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("none.yaml", None, "none.yaml: cannot be read: No such file"),
        ("names.yaml", "dog: [", "is not YAML or JSON"),
        ("names.json", "dog: hound", "is not YAML or JSON"),
        ("names.yaml", "- dog", "expected class folders and what belongs to each"),
        ("names.yaml", "no: dog", "False is not read as text; write the class folder in quotes"),
        ("names.yaml", "dgo: hound", "there is no class 'dgo'; did you mean 'dog'"),
        ("names.yaml", "dog: no", "dog: expected words for prompts, got False"),
        ("names.yaml", 'dog: " "', "dog: expected words"),
        ("names.csv", "folder,name\ndog,hound", "header with the columns class,name"),
        ("names.csv", "class,name\ndog", "dog: expected words for prompts, got None"),
        ("names.csv", "class,name\ndog,hound\ndog,puppy", "'dog' is named twice"),
    ],
)
def test_files_of_names_that_cannot_be_used(
    tmp_path: Path, file: str, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match="data.class_names: .*" + expected):
        prompts_of({}, class_names=str(tmp_path / file))


@pytest.mark.parametrize("texts", ["a hound", "[]", '["a hound", ""]', "[1]", "{}"])
def test_prompts_of_a_class_must_be_a_list_of_texts(tmp_path: Path, texts: str) -> None:
    (tmp_path / "own.yaml").write_text(f"dog: {texts}")
    with pytest.raises(DataError, match=r"prompts.per_class: .*own\.yaml: dog: expected a list"):
        prompts_of({"per_class": str(tmp_path / "own.yaml")})


def test_names_of_classes_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"prompts.per_class: there is no class 'dogs'; did you mean 'dog'"):
        prompts_of({"per_class": {"dogs": ["hounds"]}})
    with pytest.raises(DataError, match=r"data.class_names: there is no class 'alarm-clock'; did you mean"):
        prompts_of({}, class_names={"alarm-clock": "clock"})


def test_a_file_beside_the_recipe_is_found_and_checked_with_the_data(
    domain_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{root: {domain_folder}, target: photo, class_names: names.csv}}\n"
        "teacher: {model: 'local-dir:teacher'}\nstudent: {backbone: resnet18}\n"
    )
    names = tmp_path / "names.csv"
    names.write_text("class,name\ncircel,round thing\n")
    with pytest.raises(DataError, match="'circel'; did you mean 'circle'"):
        load_domains(load_recipe(recipe).data)
    names.write_text("class,name\ncircle,round thing\n")
    loaded = load_recipe(recipe)
    domain_set = load_domains(loaded.data)
    assert class_prompts(loaded.prompts, loaded.data, domain_set.classes, domain_set.domains, "photo") == (
        ("a photo of a round thing",),
        ("a photo of a square",),
    )


def test_a_file_of_the_whole_data_set_serves_a_part_of_its_classes(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("dog: a dog\nhorse: a horse\n")
    (tmp_path / "own.yaml").write_text("horse: [a horse on grass]\n")
    files = {"class_names": str(tmp_path / "names.yaml")}
    prompts = PromptsRecipe(style="class_name", per_class=str(tmp_path / "own.yaml"))
    part = DataRecipe(root="x", target="each", classes=("dog", "cat"), **files)
    assert class_prompts(prompts, part, ("dog", "cat"), ("a", "b"), "b") == (("a dog",), ("cat",))
    with pytest.raises(DataError, match="no class 'horse'"):
        class_prompts(prompts, DataRecipe(root="x", target="each", **files), ("dog", "cat"), ("a", "b"), "b")
