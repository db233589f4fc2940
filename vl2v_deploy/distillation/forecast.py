"""How long the runs of a recipe would train on this machine: all their steps, at a pace that is measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.data.domains import DomainSet
from vl2v_deploy.distillation.pace import Pace, asks_elsewhere, measure_pace
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.protocol import planned_runs
from vl2v_deploy.distillation.purchase.needed import Needed, needed_by_recipe
from vl2v_deploy.distillation.sources import open_sources
from vl2v_deploy.models.device import limit_torch_threads, require_device
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.recipe import Recipe, StageName, methods_of, stages_of, unlabelled_per_step

MEASURE_S = 40.0  # that measuring takes at most, about, all stages together


@dataclass(frozen=True)
class StageForecast:
    """One stage of a method in all of its runs.

    runs:   how many there are
    steps:  of each of them; fewer where a stage ends early
    images: in a step
    pace:   of its steps here
    """

    method: str
    stage: StageName
    runs: int
    steps: int
    images: int
    pace: Pace

    @property
    def step_s(self) -> float:
        return self.pace.of(self.images)

    @property
    def hours(self) -> float:
        """Of all runs."""
        return self.runs * self.steps * self.step_s / 3600


@dataclass(frozen=True)
class Forecast:
    """The training of a recipe's runs, one after the other, on one device.

    runs:      of all methods, those that train no weights too
    stages:    of the methods that train weights
    elsewhere: whether steps ask a teacher whose time is in none of this
    load:      how many processes wanted a processor, on average of the last minute; None where it is not told
    """

    device: str
    image_size_px: int
    runs: int
    stages: tuple[StageForecast, ...]
    elsewhere: bool
    load: float | None

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)


def needed_queries(recipe: Recipe, teacher: Teacher, *, skip_bad: bool) -> tuple[DomainSet, Needed]:
    """The recipe's data, and what all its runs ask a teacher, as `vl2v-deploy teacher embed` counts it.

    teacher: in place of the recipe's, whose weights are not needed for it; it is asked nothing

    Raises what loading the data raises.
    """
    here = recipe.model_copy(update={"device": "cpu"})  # nothing is computed
    sources = open_sources(here, World(), skip_bad=skip_bad, teacher=teacher)
    return sources.data(here.data)[0], needed_by_recipe(here, sources)


def forecast(recipe: Recipe, domain_set: DomainSet) -> Forecast:
    """The forecast for the recipe's device, from a few steps of each stage; takes about MEASURE_S at most.

    domain_set: the recipe's data, of which domains and classes count

    Raises ProviderError for a device that is not here, ModelError for models that cannot be built.
    """
    limit_torch_threads()
    device = require_device(recipe.device)
    by_method: dict[str, list[Recipe]] = {}
    for planned in planned_runs(recipe, Path(), domain_set.domains):
        [method] = methods_of(planned.recipe)
        by_method.setdefault(method, []).append(planned.recipe)
    trained = [
        (method, of_runs, stage) for method, of_runs in by_method.items() for stage in stages_of(of_runs[0])
    ]
    stages, began = [], time.perf_counter()
    for number, (method, of_runs, stage) in enumerate(trained):
        first = of_runs[0]  # the others differ in target and seed
        settings = stages_of(first)[stage]
        images = len(domain_set.sources(first.data.target)) * settings.batch_per_domain
        images += unlabelled_per_step(first, stage)
        left_s = MEASURE_S - (time.perf_counter() - began)
        pace = measure_pace(
            first,
            stage,
            images,
            domain_set.classes,
            domain_set.domains,
            device,
            within_s=left_s / (len(trained) - number),
        )
        stages.append(StageForecast(method, stage, len(of_runs), settings.steps, images, pace))
    return Forecast(
        device=str(device),
        image_size_px=recipe.student.image_size_px,
        runs=sum(map(len, by_method.values())),
        stages=tuple(stages),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        elsewhere=any(asks_elsewhere(of_runs[0]) for of_runs in by_method.values()),
    )
