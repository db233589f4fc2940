"""`vl2v-deploy teacher embed`: buys in advance every image embedding that a recipe's runs will need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation.evaluate.predictions import asked_of_teacher, run_data
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.protocol import planned_runs
from vl2v_deploy.distillation.sources import open_sources
from vl2v_deploy.recipe import (
    AugmentationRecipe,
    Recipe,
    asks_about_training_images,
    methods_of,
    recipe_of_method,
)


@dataclass(frozen=True)
class Purchase:
    """What was bought for a recipe.

    teacher: its identity
    needed:  embeddings that the recipe's runs ask for, each counted once
    bought:  of them, those that the store did not hold yet
    usd_per_1k_images: the price that the teacher states; None where it states none
    online:  whether training will ask for more: with teacher_views: online every step does
    """

    teacher: str
    needed: int
    bought: int
    usd_per_1k_images: float | None
    online: bool


def embed_ahead(recipe: Recipe, *, skip_bad: bool = False) -> Purchase:
    """Fill the embedding store with all that the recipe's runs need; they then send no new image.

    Raises what loading the data and the teacher raises.
    """
    sources = open_sources(recipe, World(), skip_bad=skip_bad)
    plain: dict[str, Sample] = {}
    viewed: dict[tuple[AugmentationRecipe, int], dict[str, Sample]] = {}
    for planned in planned_runs(recipe, Path(), sources.data(recipe.data)[0].domains):
        of_run = planned.recipe
        for sample, with_views in asked_of_teacher(of_run, run_data(of_run, sources)):
            known = viewed.setdefault(_views(of_run), {}) if with_views else plain
            known[sample.sha256] = sample
    asked_before = sources.store.queries
    sources.store.embed_samples(list(plain.values()), "Images as they are")
    for (augmentation, views), samples in viewed.items():
        sources.store.embed_views(list(samples.values()), augmentation, views, f"{views} views of each image")
    price = sources.teacher.price
    return Purchase(
        teacher=sources.teacher.identity,
        needed=len(plain) + sum(views * len(samples) for (_, views), samples in viewed.items()),
        bought=sources.store.queries - asked_before,
        usd_per_1k_images=price.usd_per_1k_images if price else None,
        online=any(
            of_one.teacher_views == "online" and asks_about_training_images(of_one)
            for of_one in (recipe_of_method(recipe, method) for method in methods_of(recipe))
        ),
    )


def _views(recipe: Recipe) -> tuple[AugmentationRecipe, int]:
    assert isinstance(recipe.teacher_views, int)
    return recipe.distill.augmentation, recipe.teacher_views
