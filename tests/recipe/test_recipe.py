from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.recipe import (
    AugmentationRecipe,
    dump_recipe,
    load_recipe,
    recipe_json_schema,
    recipe_of_method,
    recipe_sha256,
)

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
MINIMAL = """
data: {root: pictures, target: photo}
teacher: {model: "local-dir:teacher"}
student: {backbone: resnet18}
"""
Write = Callable[[str], Path]


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def suggestions(path: Path) -> list[list[str]]:
    """The overrides that a recipe's header offers, a list for each of its lines."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("#   --set ")]
    return [shlex.split(line.removeprefix("#   ").replace("--set ", "")) for line in lines]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_a_shipped_recipe_suggests_loads_and_exists(path: Path) -> None:
    for overrides in [[], *suggestions(path)]:
        recipe = load_recipe(path, overrides)
        student, teacher = recipe.student, recipe.teacher
        if student.weights.startswith("timm:"):
            assert timm.is_model_pretrained(f"{student.backbone}.{student.weights.removeprefix('timm:')}")
        if teacher.kind == "http":  # another machine's
            continue
        if ":" not in teacher.model and not (teacher.pretrained or "").endswith(".pt"):
            assert (teacher.model, teacher.pretrained) in open_clip.list_pretrained()


DOMAINBED = ("pacs", "vlcs", "officehome", "terraincognita", "domainnet")


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem in DOMAINBED], ids=lambda path: path.stem
)
def test_domainbed_recipes_have_the_authors_settings(path: Path) -> None:
    assert len(suggestions(path)) >= 4
    recipe, big = load_recipe(path), path.stem == "domainnet"
    assert (recipe.data.target, recipe.trials, recipe.data.split.protocol) == ("each", 3, "domainbed")
    assert recipe.data.split.val == 0.2
    for stage in (recipe.align, recipe.distill):
        assert stage.steps == (15001 if big else 5001)
        assert stage.evaluate_every == (1000 if big else 200)
        assert (stage.learning_rate, stage.batch_per_domain, stage.averaging) == (5e-5, 32, "swad")
    assert recipe.distill.augmentation == AugmentationRecipe()


def test_a_recipe_for_each_benchmark_of_the_paper_is_shipped() -> None:
    assert {path.stem for path in RECIPES} >= set(DOMAINBED)


def test_defaults_are_the_papers(write_recipe: Write) -> None:
    recipe = load_recipe(write_recipe(MINIMAL))
    assert recipe.distill.image_weight == 0.5
    assert recipe.distill.learning_rate == recipe.align.learning_rate == 5e-5
    assert recipe.distill.batch_per_domain == 32
    assert recipe.prompts.templates == ("a photo of a {class}",)
    assert recipe.distill.augmentation.crop_scale_min == 0.7


def test_relative_paths_are_relative_to_the_recipe(write_recipe: Write) -> None:
    path = write_recipe(MINIMAL)
    recipe = load_recipe(path)
    assert recipe.data.root == str(path.parent.resolve() / "pictures")
    assert recipe.teacher.model == f"local-dir:{path.parent.resolve() / 'teacher'}"


def test_a_teacher_without_a_kind_is_open_clip_s_with_the_hash_it_always_had(write_recipe: Write) -> None:
    as_then = ["data.split.duplicates=allow", "validation_mean=images"]
    absolute = ["data.root=/d", "teacher.model=hf-hub:a/b", *as_then]
    recipe = load_recipe(write_recipe(MINIMAL), absolute)
    assert recipe == load_recipe(write_recipe(MINIMAL), [*absolute, "teacher.kind=open_clip"])
    # of this very recipe, computed before teachers had kinds
    before = "675e2de16a8c3c8a47ef535c48b96f36b9c6359c95ead19c967c0bd78db9c5db"
    assert recipe_sha256(recipe) == before


@pytest.mark.parametrize(
    ("teacher", "paths"),
    [
        ("{kind: precomputed, images: a/i.npz, texts: t.npz}", {"images": "a/i.npz", "texts": "t.npz"}),
        ("{kind: transformers, model: 'local-dir:clip'}", {"model": "local-dir:|clip"}),
        ("{kind: transformers, model: google/siglip, revision: main}", {}),
        ("{kind: python}", {}),
    ],
)
def test_each_kind_of_teacher_loads_and_its_paths_are_relative_to_the_recipe(
    write_recipe: Write, tmp_path: Path, teacher: str, paths: dict[str, str]
) -> None:
    path = write_recipe(MINIMAL)
    recipe = load_recipe(path, [f"teacher={teacher}"])
    tree = recipe.teacher.model_dump()
    for field, relative in paths.items():
        prefix, _, name = relative.rpartition("|")
        assert tree[field] == prefix + str(path.parent.resolve() / name)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


NPZ = "kind: precomputed, images: i.npz, texts: t.npz"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teacher={kind: precomputd}"], ".kind: unknown kind 'precomputd'; did you mean 'precomputed'?"),
        (["teacher={kind: precomputed, images: i.npz}"], "teacher.texts: is required"),
        ([f"teacher={{{NPZ}, logit_scal: 3}}"], ".logit_scal: unknown field; did you mean 'logit_scale'?"),
        ([f"teacher={{{NPZ}, logit_scale: 0}}"], "teacher.logit_scale: input should be greater than 0"),
        (["teacher={modle: x, model: 'hf-hub:a/b'}"], ".modle: unknown field; did you mean 'model'?"),
        (["teacher={kind: transformers, model: 'local-dir:x', revision: a}"], "revision does not go with"),
        ([f"teacher={{{NPZ}}}", "teacher_views=2"], "set teacher_views: 0"),
        ([f"teacher={{{NPZ}}}", "teacher_views=online"], "set teacher_views: 0"),
        ([f"teacher={{{NPZ}}}", "normalization=faithful"], "normalization: faithful needs open_clip"),
        (
            ["teacher={kind: python}", "method=self_distill", "student.backbone=teacher"],
            "self_distill needs open_clip",
        ),
    ],
)
def test_what_a_kind_of_teacher_cannot_do_is_one_line(
    write_recipe: Write, overrides: list[str], expected: str
) -> None:
    [line] = problems(write_recipe(MINIMAL), *overrides)
    assert expected in line and "teacher" in line


def test_all_problems_are_reported_at_once_with_file_and_field(write_recipe: Write) -> None:
    path = write_recipe(MINIMAL + "align: {steps: 0}\ndistill: {learnig_rate: 1}\nseeed: 1\n")
    found = problems(path)
    assert len(found) == 3
    assert all(line.startswith(f"{path}: ") for line in found)
    assert any("align.steps" in line and "got 0" in line for line in found)
    assert any("distill.learnig_rate: unknown field; did you mean 'learning_rate'?" in line for line in found)
    assert any("seeed: unknown field; did you mean 'seed'?" in line for line in found)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.image_weight=1.5", "distill.image_weight"),
        ("distill.learning_rate=nan", "distill.learning_rate"),
        ("student.image_size_px=8", "student.image_size_px"),
        ("data.split.val=0.9", "leaves nothing to train on"),
        ("data.classes=[one]", "data.classes"),
        ("prompts.templates=[a photo]", "must contain {class}"),
        ('prompts.templates=["a {clas} {class}"]', "no other braces"),
        ("teacher.model=ViT-B-16", "pretrained is needed"),
        ("teacher.pretrained=openai", "does not go with local-dir:"),
        ("teacher.model=builtin:nothing", "builtin:emojidg-teacher"),
        ("device=gpu", "device"),
        ("distill.precision=fp8", "distill.precision"),
        ("nonsense", "expected FIELD=VALUE"),
        ("data.root.x=1", "holds a value, not a section"),
    ],
)
def test_ranges_and_combinations(write_recipe: Write, override: str, expected: str) -> None:
    found = problems(write_recipe(MINIMAL), override)
    assert len(found) == 1
    assert expected in found[0]


def test_overrides_change_what_they_name_only(write_recipe: Write) -> None:
    path = write_recipe(MINIMAL)
    plain, changed = load_recipe(path), load_recipe(path, ["distill.learning_rate=1e-3", "distill.steps=7"])
    assert (changed.distill.learning_rate, changed.distill.steps) == (1e-3, 7)
    assert changed.align == plain.align
    assert recipe_sha256(changed) != recipe_sha256(plain)


@pytest.mark.parametrize("text", ["- a list", "just text", "", "data: [unclosed", "a: b: c"])
def test_what_is_not_a_recipe_says_so(write_recipe: Write, text: str) -> None:
    path = write_recipe(text)
    assert problems(path)[0].startswith(str(path))


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in problems(tmp_path / "none.yaml")[0]


def test_schema_describes_every_field() -> None:
    schema = json.loads(json.dumps(recipe_json_schema()))
    assert {"data", "teacher", "student", "distill"} <= schema["properties"].keys()
    distill = schema["$defs"]["DistillRecipe"]
    assert distill["additionalProperties"] is False
    assert "lambda" in distill["properties"]["image_weight"]["description"]


def test_a_recipe_is_checked_without_torch(write_recipe: Write) -> None:
    code = (
        "import sys; from pathlib import Path; from vl2v_deploy.recipe import load_recipe;"
        f"load_recipe(Path({str(write_recipe(MINIMAL))!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_label_changes_no_run_and_names_one_method_alone(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text((Path(__file__).parents[2] / "recipes/quickstart.yaml").read_text())
    plain, named = load_recipe(file), load_recipe(file, ["label=mine"])
    assert named.label == "mine" and recipe_sha256(named) == recipe_sha256(plain)
    several = load_recipe(file, ["method=[kd,adip]", "per_method={adip: {label: mine}}"])
    assert [recipe_of_method(several, name).label for name in ("kd", "adip")] == [None, "mine"]
    with pytest.raises(RecipeError, match="label"):
        load_recipe(file, ["method=[kd,adip]", "label=mine"])
