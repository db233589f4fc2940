"""`protocol: authors`: one switch, each of its settings alone, and older runs read as they were meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vl2v_deploy.errors import RecipeError
from vl2v_deploy.models.record import record_from_tree
from vl2v_deploy.recipe import (
    METHODS,
    RENAMED,
    Recipe,
    as_written,
    authors_settings,
    dump_recipe,
    load_recipe,
    load_run_recipe,
    protocol_name,
    protocol_settings,
    recipe_from_tree,
    recipe_of_method,
    recipe_sha256,
)
from vl2v_deploy.recipe.inputs import Section

RECIPES = Path(__file__).parents[2] / "recipes"
OF_THE_PAPER = ("pacs", "vlcs", "officehome", "terraincognita", "domainnet")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
OLD_RUN = Path(__file__).parents[1] / "helpers" / "runs" / "format_2"
MINIMAL = """
data: {root: pictures, target: photo, split: domainbed}
teacher: {model: ViT-B-16, pretrained: openai}
student: {backbone: resnet50}
"""


def used(recipe: Recipe) -> dict[str, Any]:
    return {setting.field: setting.used for setting in protocol_settings(recipe)}


@pytest.mark.parametrize("backbone", ["resnet50", "vit_base_patch16_224", "deit_small_distilled_patch16_224"])
def test_the_authors_switch_sets_what_their_scripts_do(
    write_recipe: Callable[[str], Path], backbone: str
) -> None:
    recipe = load_recipe(write_recipe(MINIMAL), ["protocol=authors", f"student.backbone={backbone}"])
    vit_base = backbone.startswith("vit_base")
    assert used(recipe) == {
        "normalization": "faithful",
        "validation_mean": "domains",
        "teacher_views": "online",
        "align.evaluate_from_first_step": True,
        "align.averaging": "swad",
        "align.swad.variant": "authors",
        "align.swad.segments": "cumulative",
        "align.hand_over": "checkpoint",
        "align.hand_over_from": 1000 if vit_base else 100,
        "distill.evaluate_from_first_step": True,
        "distill.averaging": "swad",
        "distill.swad.variant": "authors",
        "distill.swad.segments": "since_evaluation" if vit_base else "cumulative",
    }
    assert protocol_name(recipe) == "authors"
    assert protocol_name(load_recipe(write_recipe(MINIMAL))) == "default"
    evaluated = [step for step in range(recipe.align.steps) if recipe.align.evaluates_after(step)]
    assert evaluated[:3] == [0, 200, 400]


@pytest.mark.parametrize("field", authors_settings("teacher"))
def test_each_of_the_authors_settings_can_be_set_alone(
    write_recipe: Callable[[str], Path], field: str
) -> None:
    theirs = authors_settings("teacher" if field == "student.projection" else "resnet50")[field]
    if field == "align.hand_over_from":
        theirs = 300
    method = ["method=self_distill", "student.backbone=teacher"] if field == "student.projection" else []
    alone = [*method, f"{field}={json.dumps(theirs)}"]
    if field.endswith("swad.segments"):
        alone.append(f"{field.removesuffix('segments')}variant=authors")
    recipe = load_recipe(write_recipe(MINIMAL), alone)
    defaults = load_recipe(write_recipe(MINIMAL), method)
    same = field in ("validation_mean", "align.averaging", "distill.averaging")
    assert protocol_name(recipe) == ("default" if same else "mixed")
    changed = {name for name, value in used(recipe).items() if value != used(defaults)[name]}
    if field.endswith("swad.segments"):
        changed.remove(f"{field.removesuffix('segments')}variant")
    assert changed == (set() if same else {field})
    # and left out alone: what the recipe itself says wins over the switch
    ours = next(setting.default for setting in protocol_settings(defaults) if setting.field == field)
    kept = [*method, "protocol=authors", f"{field}={json.dumps(ours)}"]
    if field.endswith("swad.variant"):
        kept.append(f"{field.removesuffix('variant')}segments=since_evaluation")
    assert used(load_recipe(write_recipe(MINIMAL), kept))[field] == ours


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_papers_recipes_use_the_authors_protocol(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.protocol == "authors" and protocol_name(recipe) == "authors"
    assert recipe.align.evaluates_after(recipe.align.steps - 1)
    assert (recipe.align.steps - 1) % recipe.align.evaluate_every == 0
    tower = ["method=self_distill", "student.backbone=teacher", "student.weights=timm"]
    assert used(load_recipe(RECIPES / f"{name}.yaml", tower))["student.projection"] == "trained"


def test_a_recipe_of_the_authors_protocol_is_read_back_unchanged(
    write_recipe: Callable[[str], Path],
) -> None:
    recipe = load_recipe(
        write_recipe(MINIMAL), ["protocol=authors", "normalization=own", "method=[erm, adip]"]
    )
    again = load_recipe(write_recipe(dump_recipe(recipe)))
    assert again == recipe
    for method in ("erm", "adip"):
        of_method = recipe_of_method(recipe, method)
        assert of_method.normalization == "own" and of_method.distill.swad.variant == "authors"
        assert protocol_name(of_method) == "mixed"
    with pytest.raises(RecipeError, match=r"per_method\.erm\.protocol: is the same for all methods"):
        load_recipe(write_recipe(MINIMAL), ["method=[erm, adip]", "per_method.erm.protocol=authors"])


def test_the_authors_switch_has_the_hash_of_its_settings(write_recipe: Callable[[str], Path]) -> None:
    switched = load_recipe(write_recipe(MINIMAL), ["protocol=authors"])
    settings = [f"{field}={json.dumps(value)}" for field, value in authors_settings("resnet50").items()]
    assert recipe_sha256(load_recipe(write_recipe(MINIMAL), settings)) == recipe_sha256(switched)
    assert recipe_sha256(load_recipe(write_recipe(MINIMAL))) != recipe_sha256(switched)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("align.swad.segments=cumulative", "cumulative needs variant: authors"),
        ("student.projection=trained", "projection: trained is for backbone: teacher"),
        ("align={hand_over: checkpoint, hand_over_from: 5000}", "no checkpoint is left to hand over"),
        (
            "align={hand_over: checkpoint, hand_over_from: 900, patience: 4}",
            "can end the stage after step 800",
        ),
        ("distill.hand_over=checkpoint", "unknown field"),
        ("rise.templates=[a photo]", r"must contain \{class\}"),
    ],
)
def test_settings_of_the_authors_that_cannot_be_are_refused(
    write_recipe: Callable[[str], Path], override: str, complaint: str
) -> None:
    with pytest.raises(RecipeError, match=complaint):
        load_recipe(write_recipe(MINIMAL), [override])


def sections(section: type[Section]) -> set[type[Section]]:
    return {section}.union(*(sections(below) for below in section.__subclasses__()))


def test_an_override_reaches_into_a_section_in_its_short_form(write_recipe: Callable[[str], Path]) -> None:
    file = write_recipe(MINIMAL)
    split = load_recipe(file, ["data.split.seed=3"]).data.split
    assert (split.protocol, split.seed, split.val) == ("domainbed", 3, 0.2)
    both = load_recipe(file, ["data.split=seeded", "data.split.val=0.3"]).data.split
    assert (both.protocol, both.val) == ("seeded", 0.3)
    short = {section for section in sections(Section) if section.short}
    assert [section.__name__ for section in short] == ["SplitRecipe"]  # another wants an example above
    for section in short:
        assert section.short in section.model_fields
    with pytest.raises(RecipeError, match="target holds a value, not a section"):
        load_recipe(file, ["data.target.name=x"])


def older(tree: dict[str, Any]) -> dict[str, Any]:
    """A whole recipe as a version before these fields wrote it."""
    tree = json.loads(json.dumps(tree))
    for field in ("protocol", "validation_mean", "rise", "per_method"):
        tree.pop(field)
    tree["student"].pop("projection")
    for stage in ("align", "distill"):
        tree[stage].pop("evaluate_from_first_step")
        tree[stage]["swad"].pop("variant")
        tree[stage]["swad"].pop("segments")
    for field in ("hand_over", "hand_over_from"):
        tree["align"].pop(field)
    tree["data"].pop("unlabelled_held_out")
    tree["data"]["split"].pop("duplicates")
    return tree


def test_an_older_run_is_read_as_it_was_meant(write_recipe: Callable[[str], Path]) -> None:
    then = ["validation_mean=images", "method=kd_text", "data.split=seeded", "data.split.duplicates=allow"]
    then += ["data.unlabelled=[more]", "data.unlabelled_held_out=0.0"]
    pooled = load_recipe(write_recipe(MINIMAL), then)
    tree = older(pooled.model_dump(mode="json")) | {"method": "rise"}
    file = write_recipe(yaml.safe_dump(tree))
    assert load_run_recipe(file) == pooled.model_copy(update={"per_method": {}})
    assert load_recipe(file).validation_mean == "domains" and load_recipe(file).method == "rise"
    assert as_written(pooled.model_dump(mode="json")) == pooled.model_dump(mode="json")


def test_an_older_record_of_rise_is_one_of_kd_text() -> None:
    tree = json.loads((OLD_RUN / "run.json").read_text()) | {"method": "rise"}
    assert "protocol" not in tree
    assert record_from_tree(tree, OLD_RUN).method == "kd_text"
    assert METHODS["kd_text"].label != METHODS["rise"].label
    newer = tree | {"protocol": {"name": "default", "settings": {}}}
    assert record_from_tree(newer, OLD_RUN).method == "rise"


def test_older_runs_keep_their_hashes() -> None:
    lines = [json.loads(line) for line in (RESULTS / "emojidg_tune" / "runs.jsonl").read_text().splitlines()]
    # The hash of a run holds its method's name of then: one that is renamed has that of the older name.
    renamed = {*RENAMED, *RENAMED.values()}
    older_lines = [line for line in lines if "protocol" not in line and line["method"] not in renamed]
    assert older_lines
    for line in older_lines:
        recipe = recipe_from_tree(as_written(line["recipe"]), source="runs.jsonl")
        assert recipe_sha256(recipe) == line["recipe_sha256"]
        now = recipe.model_copy(update={"validation_mean": "domains"})
        assert recipe_sha256(now) != line["recipe_sha256"]
