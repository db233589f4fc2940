"""Class folders without domains, and domains that lack classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.domain_folders import CLASSES
from vl2v_deploy.data.domains import DomainSet, evaluation_samples, load_domains, oracle_samples
from vl2v_deploy.data.notices import folder_notices, leak_notices, seen_layout
from vl2v_deploy.data.starter import starter_recipe
from vl2v_deploy.errors import DataError
from vl2v_deploy.recipe import DataRecipe, load_recipe


def load(root: Path, target: str = "none", **options: object) -> DomainSet:
    return load_domains(DataRecipe.model_validate({"root": str(root), "target": target} | options))


def test_class_folders_are_one_domain_without_a_target(domain_folder: Path) -> None:
    domain_set = load(domain_folder / "ink")
    assert (domain_set.domains, domain_set.classes) == (("all",), CLASSES)
    assert len(domain_set.samples) == 20
    assert domain_set.sources("none") == ("all",)
    assert {s.split for s in evaluation_samples(domain_set, "all", "none")} == {"test"}
    assert all(s.path.parent.name == CLASSES[s.label] for s in domain_set.samples)
    assert "one domain" in seen_layout(domain_set)
    with pytest.raises(DataError, match="there is none"):
        oracle_samples(domain_set, "none")


def test_class_folders_need_target_none(domain_folder: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.target: none"):
        load(domain_folder / "ink", target="circle")


def test_class_folders_ignore_files_beside_them_aloud(domain_folder: Path) -> None:
    (domain_folder / "ink" / "labels.txt").write_text("-")
    assert load(domain_folder / "ink").unused == ("labels.txt",)


def test_domains_with_target_none_are_all_sources(domain_folder: Path) -> None:
    domain_set = load(domain_folder)
    assert domain_set.sources("none") == domain_set.domains == ("ink", "paint", "photo")
    (domain_folder / "ink").rename(domain_folder / "none")
    with pytest.raises(DataError, match="rename the folder"):
        load(domain_folder)


def test_class_folders_under_train_and_test_are_told_what_to_do(domain_folder: Path) -> None:
    for was, now in (("ink", "train"), ("paint", "test"), ("photo", "val")):
        (domain_folder / was).rename(domain_folder / now)
    with pytest.raises(DataError, match="sides of a split"):
        load(domain_folder)


def test_init_of_class_folders_writes_a_recipe_that_loads(domain_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    text, _ = starter_recipe(domain_folder / "ink", None, out)
    out.write_text(text, encoding="utf-8")
    recipe = load_recipe(out)
    assert recipe.data.target == "none"
    assert load_domains(recipe.data).domains == ("all",)


def test_lacking_classes_are_trained_on_where_they_are(domain_folder: Path) -> None:
    shutil.rmtree(domain_folder / "ink" / "square")
    domain_set = load(domain_folder, target="photo")
    assert domain_set.lacking == {"ink": ("square",)}
    assert {(s.domain, s.label) for s in domain_set.select(("ink", "paint"), "train")} == {
        ("ink", 0),
        ("paint", 0),
        ("paint", 1),
    }
    [notice] = folder_notices(domain_set)
    assert "ink has 1 of the 2 classes, and lacks square" in notice
    assert leak_notices(domain_set, "photo", ()) == []


def test_lacking_in_every_source_is_said(domain_folder: Path) -> None:
    for domain in ("ink", "paint"):
        shutil.rmtree(domain_folder / domain / "square")
    notices = leak_notices(load(domain_folder, target="photo"), "photo", ())
    assert any("no source domain has an image of square" in notice for notice in notices)


def test_lacking_is_refused_by_domainbed_and_for_classes_of_no_domain(domain_folder: Path) -> None:
    with pytest.raises(DataError, match="no domain has a class folder 'disc'"):
        load(domain_folder, target="photo", classes=["circle", "disc"])
    shutil.rmtree(domain_folder / "ink" / "square")
    with pytest.raises(DataError, match="DomainBed's splits need all"):
        load(domain_folder, target="photo", split="domainbed")
