"""What the runs of a recipe ask their teacher: images, fixed views of them, texts. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vl2v_deploy.bulk.parts import Part, is_in_part
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation.evaluate.predictions import RunData, asked_of_teacher, run_data
from vl2v_deploy.distillation.guidance import guidance_texts
from vl2v_deploy.distillation.protocol import planned_runs
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.errors import RecipeError
from vl2v_deploy.models.store.keys import text_key
from vl2v_deploy.recipe import AugmentationRecipe, Recipe, asks_about_training_images


class Views(NamedTuple):
    """The fixed views of an image that are asked about; number 0 = the image as it is."""

    augmentation: AugmentationRecipe
    number: int

    @property
    def queries(self) -> int:
        """For each image."""
        return max(1, self.number)


@dataclass(frozen=True)
class Needed:
    """Each image and text counts once, however many runs ask about it.

    plain:  images as they are
    viewed: images of which fixed views are asked about
    texts:  all prompts
    online: whether training asks for more: with teacher_views: online every step does
    """

    plain: tuple[Sample, ...]
    viewed: Mapping[Views, tuple[Sample, ...]]
    texts: tuple[str, ...]
    online: bool

    @property
    def queries(self) -> int:
        """Of images and views."""
        return len(self.plain) + sum(views.queries * len(samples) for views, samples in self.viewed.items())


def needed_by_recipe(recipe: Recipe, sources: Sources) -> Needed:
    """All that `vl2v-deploy teacher embed` buys for the recipe's runs."""
    plain: dict[str, Sample] = {}
    viewed: dict[Views, dict[str, Sample]] = {}
    online = False
    for of_run, data in _runs(recipe, sources):
        for sample, with_views in asked_of_teacher(of_run, data):
            known = viewed.setdefault(_views(of_run), {}) if with_views else plain
            known[sample.sha256] = sample
        online |= of_run.teacher_views == "online" and asks_about_training_images(of_run)
    return Needed(
        plain=tuple(plain.values()),
        viewed={views: tuple(samples.values()) for views, samples in viewed.items()},
        texts=texts_of_recipe(recipe, sources),
        online=online,
    )


def of_part(needed: Needed, part: Part) -> Needed:
    """What part i of N buys of it; the parts together buy all, and each image and text is in one of them.

    All that is asked about an image is in one part, so that one job decodes it.
    """

    def chosen(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if is_in_part(bytes.fromhex(sample.sha256), part))

    viewed = {views: chosen(samples) for views, samples in needed.viewed.items()}
    return Needed(
        plain=chosen(needed.plain),
        viewed={views: samples for views, samples in viewed.items() if samples},
        texts=tuple(text for text in needed.texts if is_in_part(text_key(text), part)),
        online=needed.online,
    )


def training_of_recipe(recipe: Recipe, sources: Sources) -> tuple[tuple[Sample, ...], Views]:
    """The training images that the recipe's runs ask the teacher about, and the views of each.

    Raises RecipeError where no run asks about training images ahead, or runs ask about different views.
    """
    found: dict[Views, dict[str, Sample]] = {}
    for of_run, data in _runs(recipe, sources):
        if asks_about_training_images(of_run) and of_run.teacher_views != "online":
            samples = (*data.train, *data.unlabelled.samples)
            found.setdefault(_views(of_run), {}).update({sample.sha256: sample for sample in samples})
    if not found:
        raise RecipeError(
            "no method of the recipe asks the teacher about training images ahead, so there is nothing to "
            "choose; set method: adip or another that does, and teacher_views to a number"
        )
    if len({views if views.number else None for views in found}) > 1:
        raise RecipeError(
            "the recipe's methods ask about different views of an image; choose for one method at a time, "
            "with --set method=..."
        )
    everything = {sha256: sample for of_views in found.values() for sha256, sample in of_views.items()}
    return tuple(everything.values()), next(iter(found))


def texts_of_recipe(recipe: Recipe, sources: Sources) -> tuple[str, ...]:
    """The prompts of all its runs, and the texts that their methods learn from besides."""
    texts: dict[str, None] = {}
    for of_run, data in _runs(recipe, sources):
        asked = [sources.prompts(of_run, data.domain_set)]
        asked += guidance_texts(of_run, data.domain_set.classes, data.domain_set.domains) or ()
        texts |= {text: None for prompts in asked for of_class in prompts for text in of_class}
    return tuple(texts)


def _runs(recipe: Recipe, sources: Sources) -> Iterator[tuple[Recipe, RunData]]:
    for planned in planned_runs(recipe, Path(), sources.data(recipe.data)[0].domains):
        yield planned.recipe, run_data(planned.recipe, sources)


def _views(recipe: Recipe) -> Views:
    assert isinstance(recipe.teacher_views, int)
    return Views(recipe.distill.augmentation, recipe.teacher_views)
