"""`vl2v-deploy teacher check`: is a teacher as it should be, and what will it cost, for a few cents.

Whatever real images it asks about go through the embedding store, and are not paid again. The other queries
are few: two probe pictures, one text, three images a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vl2v_deploy.client.images import TRUSTED, open_image
from vl2v_deploy.data.domains import Sample, spread
from vl2v_deploy.distillation.evaluate.predictions import run_data
from vl2v_deploy.distillation.evaluate.scores import labels_of
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.protocol import planned_runs
from vl2v_deploy.distillation.purchase.estimate import (
    Cost,
    Estimate,
    cost_of,
    estimate_needed,
    queries_to_buy,
)
from vl2v_deploy.distillation.purchase.needed import Needed, needed_by_recipe
from vl2v_deploy.distillation.purchase.probes import (
    PROBES,
    Verdict,
    judge_determinism,
    judge_dimension,
    judge_images,
    judge_norm,
    judge_order,
    judge_pictures,
    judge_space,
    judge_zero_shot,
    small_picture,
    twins,
)
from vl2v_deploy.distillation.purchase.selection import coverage_rows
from vl2v_deploy.distillation.sources import Sources, open_sources
from vl2v_deploy.errors import SettingError, VendorError
from vl2v_deploy.models.teacher.load import sent_data_url
from vl2v_deploy.models.teacher.protocol import FileTeacher
from vl2v_deploy.recipe import HttpRecipe, Recipe

CHECKS = (
    *("authentication", "dimension", "norm", "images", "order", "determinism"),
    *("same space", "zero-shot"),
)
ASKED_TWICE = 3  # images, to see order and determinism
OF_FILES = "answers are looked up by content; nothing is asked"


@dataclass(frozen=True)
class TeacherCheck:
    """What was found.

    asked:    images and texts at most, as was said before
    verdicts: of every check
    estimate: of all that the recipe's runs still need, after this check
    images_per_s: at which the teacher answered; None where it was asked too little to tell
    """

    asked: Cost
    verdicts: tuple[Verdict, ...]
    estimate: Estimate
    images_per_s: float | None

    @property
    def failed(self) -> bool:
        return any(verdict.status == "failed" for verdict in self.verdicts)


def check_teacher(
    recipe: Recipe, images: int, *, skip_bad: bool = False, announce: Callable[[Cost], None]
) -> TeacherCheck:
    """Ask the recipe's teacher a little, and judge the answers.

    images:   how many labelled images of the sources to classify, 2 or more
    announce: told what this will cost at most, before anything is asked

    Raises BudgetError where the budget does not allow it, and what loading data and teacher raises.
    """
    sources = open_sources(recipe, World(), skip_bad=skip_bad)
    needed = needed_by_recipe(recipe, sources)
    of_one = planned_runs(recipe, Path(), sources.data(recipe.data)[0].domains)[0].recipe
    chosen = _labelled_sources(of_one, sources, needed, images)
    asked = _cost(of_one, sources, chosen)
    announce(asked)
    found: dict[str, Verdict] = {}
    pace = _ask(found, of_one, sources, chosen)
    stopped = next((verdict.check for verdict in found.values() if verdict.status == "failed"), "")
    verdicts = tuple(
        found.get(name) or Verdict(name, "unknown", f"not asked: {stopped} failed", "mend that first")
        for name in CHECKS
    )
    return TeacherCheck(asked, verdicts, estimate_needed(needed, recipe.teacher, sources), pace)


def _labelled_sources(recipe: Recipe, sources: Sources, needed: Needed, images: int) -> tuple[Sample, ...]:
    """Labelled images of the run's sources, of those that are bought anyway if there are some."""
    data = run_data(recipe, sources)
    plain = {sample.sha256 for sample in needed.plain}
    of_sources = [sample for sample in data.tested.samples if sample.domain in data.domains]
    for candidates in (data.train, data.val, of_sources):
        if candidates and all(sample.sha256 in plain for sample in candidates):
            return spread(candidates, images)
    return spread(data.train, images)


def _cost(recipe: Recipe, sources: Sources, chosen: Sequence[Sample]) -> Cost:
    """What the check costs at most."""
    domain_set = sources.data(recipe.data)[0]
    texts = dict.fromkeys(text for texts in sources.prompts(recipe, domain_set) for text in texts)
    bought = queries_to_buy(sources.store, chosen)
    apart = (PROBES, min(ASKED_TWICE, len(chosen)))
    prompts = len(sources.store.missing_texts(list(texts)))
    about_texts = prompts + (sent_data_url(recipe.teacher, small_picture()) is not None)
    return cost_of(
        sources.teacher, recipe.teacher, bought, about_texts, canaries=bought + prompts > 0, apart=apart
    )


def _ask(
    found: dict[str, Verdict], recipe: Recipe, sources: Sources, chosen: Sequence[Sample]
) -> float | None:
    """Fills in verdicts until one fails that makes the others pointless; the pace of answers, images/s."""
    try:
        if not _probe(found, recipe, sources, chosen[0]):
            return None
        before, started = sources.store.queries, time.perf_counter()
        image_emb = sources.store.embed_samples(chosen, "Source images")
        bought, seconds = sources.store.queries - before, time.perf_counter() - started
        if blind := judge_pictures(image_emb):
            found["images"] = blind
            return None
        _ask_again(found, sources, chosen, image_emb)
        text_emb = sources.text_emb(recipe, sources.data(recipe.data)[0])
        labels = labels_of(chosen)
        for judge in (judge_space, judge_zero_shot):
            verdict = judge(image_emb, text_emb, labels)
            found[verdict.check] = verdict
    except (VendorError, SettingError) as error:
        name = "authentication" if "authentication" not in found else _next(found)
        if isinstance(error, VendorError) and error.status == 200 and name == "authentication":
            found[name] = Verdict(name, "passed", "the server answered")
            name = "dimension"
        found[name] = Verdict(name, "failed", str(error), _todo(recipe, error))
        return None
    return bought / seconds if bought >= ASKED_TWICE * sources.teacher.batch_size else None


def _probe(found: dict[str, Verdict], recipe: Recipe, sources: Sources, sample: Sample) -> bool:
    """Asks about a small picture, and one of the recipe's and its twin; whether it makes sense to go on."""
    teacher = sources.teacher
    if isinstance(teacher, FileTeacher):
        for name in ("authentication", "dimension", "norm", "images", "order", "determinism"):
            found[name] = Verdict(name, "passed", OF_FILES)
        return True
    known = twins(open_image(sample.path, TRUSTED), teacher.image_size_px)
    probes = teacher.embed_images([small_picture(), *known])
    key = "the key was accepted" if _key(recipe) else "the teacher answers; it wants no key"
    found["authentication"] = Verdict("authentication", "passed", key)
    for verdict in (judge_dimension(probes, teacher.embedding_dim), judge_norm(probes)):
        found[verdict.check] = verdict
    if found["dimension"].status == "failed":
        return False
    url = sent_data_url(recipe.teacher, small_picture())
    as_text = None if url is None else teacher.embed_texts([url])[0]
    found["images"] = judge_images(probes, as_text)
    return all(verdict.status != "failed" for verdict in found.values())


def _ask_again(
    found: dict[str, Verdict], sources: Sources, chosen: Sequence[Sample], image_emb: Tensor
) -> None:
    """Asks about the images that differ most a second time, in another order."""
    if isinstance(sources.teacher, FileTeacher):
        return
    rows = coverage_rows(image_emb, image_emb[:0], ASKED_TWICE)
    answers = sources.teacher.embed_images([open_image(chosen[row].path, TRUSTED) for row in reversed(rows)])
    again, first = answers.flip(0), image_emb[rows]
    for verdict in (judge_order(first, again), judge_determinism(first, again)):
        found[verdict.check] = verdict


def _key(recipe: Recipe) -> str | None:
    return recipe.teacher.key_env if isinstance(recipe.teacher, HttpRecipe) else None


def _next(found: dict[str, Verdict]) -> str:
    return next(name for name in CHECKS if name not in found)


def _todo(recipe: Recipe, error: VendorError | SettingError) -> str:
    match error.status if isinstance(error, VendorError) else None:
        case None:
            return ""  # the message says what to do
        case 200:
            return "check teacher.dimensions, model and api"
        case 401 | 403:
            return f"put a valid key into the variable {_key(recipe) or 'that teacher.key_env names'}"
        case 402:
            return "the account has no credit: see the vendor's billing page"
        case status if 400 <= status < 500 and status != 429:
            return "the server takes no such request: check teacher.api, url and model"
        case _:
            return "try again later, or ask the vendor"
