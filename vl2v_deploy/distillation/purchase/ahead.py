"""`vl2v-deploy teacher embed`: buys image embeddings in advance, all that the runs need or a chosen part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vl2v_deploy.bulk.parts import EVERYTHING, Part
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.purchase.estimate import (
    Estimate,
    budget_left,
    cost_of,
    estimate_needed,
    queries_to_buy,
)
from vl2v_deploy.distillation.purchase.needed import (
    Views,
    needed_by_recipe,
    of_part,
    texts_of_recipe,
    training_of_recipe,
)
from vl2v_deploy.distillation.purchase.selection import (
    Strategy,
    balanced_rows,
    coverage_rows,
    random_rows,
    uncertain_rows,
)
from vl2v_deploy.distillation.sources import Sources, open_sources
from vl2v_deploy.errors import RecipeError, RunError
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.student import build_student, predict_logits
from vl2v_deploy.models.teacher.protocol import Vendor
from vl2v_deploy.recipe import Recipe, methods_of, recipe_of_method, trains_on_unlabelled


@dataclass(frozen=True)
class Purchase:
    """What was bought for a recipe.

    teacher: its identity
    needed:  embeddings that the recipe's runs ask for, each counted once; with a budget those of training
             images alone
    bought:  of them, those that the store did not hold yet and that were bought now
    held:    of them, those that the store holds now
    usd_per_1k_images: the price that the teacher states; None where it states none
    online:  whether training will ask for more: with teacher_views: online every step does
    """

    teacher: str
    needed: int
    bought: int
    held: int
    usd_per_1k_images: float | None
    online: bool


@dataclass(frozen=True)
class Choice:
    """How much of the training images to buy, and which.

    queries:  the most images and views to buy, prompts and a vendor's canaries come on top; None = as many
              as `usd` pays
    usd:      the most to pay for all of it; None = as much as `queries` cost
    strategy: see purchase.selection
    run:      whose student the strategy `uncertain` asks

    Raises RecipeError for a choice that is none.
    """

    queries: int | None
    usd: float | None = None
    strategy: Strategy = "balanced"
    run: Path | None = None

    def __post_init__(self) -> None:
        if self.queries is None and self.usd is None:
            raise RecipeError("--select and --run choose within a budget: give --budget N, --usd X, or both")
        if (self.run is None) == (self.strategy == "uncertain"):
            raise RecipeError(
                "--select uncertain asks the student of an earlier run: name it with --run RUN, which goes "
                "with no other selection"
            )


def embed_ahead(recipe: Recipe, part: Part = EVERYTHING, *, skip_bad: bool = False) -> Purchase:
    """Fill the embedding store with all that the recipe's runs need; they then send no new image.

    Of a vendor texts are bought too.

    part: of all that they need, what is bought here

    Raises what loading the data and the teacher raises.
    """
    sources = open_sources(recipe, World(), skip_bad=skip_bad)
    needed, asked_before = of_part(needed_by_recipe(recipe, sources), part), sources.store.queries
    if isinstance(sources.teacher, Vendor):  # first: without its prompts a budget's images train nothing
        sources.store.embed_texts(needed.texts)
    sources.store.embed_samples(needed.plain, "Images as they are")
    for views, samples in needed.viewed.items():
        sources.store.embed_views(samples, *views, f"{views.number} views of each image")
    bought = sources.store.queries - asked_before
    return _purchase(sources, needed.queries, bought, needed.queries, online=needed.online)


def estimate_ahead(
    recipe: Recipe,
    choice: Choice | None,
    part: Part = EVERYTHING,
    *,
    skip_bad: bool = False,
    usd_per_1k: float | None = None,
) -> Estimate:
    """What `embed_ahead`, or with a choice `embed_chosen`, would buy; the teacher is asked nothing.

    part:       as `embed_ahead` takes it
    usd_per_1k: price of 1,000 images, in place of the one that the teacher states

    Raises what these raise.
    """
    sources = open_sources(recipe, World(), skip_bad=skip_bad)
    if choice is None:
        needed_here = of_part(needed_by_recipe(recipe, sources), part)
        return estimate_needed(needed_here, recipe.teacher, sources, usd_per_1k)
    samples, views = training_of_recipe(recipe, sources)
    needed = len(samples) * views.queries
    lacking = queries_to_buy(sources.store, samples, views)
    texts = len(_texts_to_buy(recipe, sources))
    most = _queries(choice, recipe, sources, texts) // views.queries * views.queries
    to_buy, held = min(most, lacking), needed - lacking
    return Estimate(
        teacher=sources.teacher.identity,
        needed=needed,
        held=held,
        to_buy=to_buy,
        texts=texts,
        cost=cost_of(
            sources.teacher,
            recipe.teacher,
            to_buy,
            texts,
            canaries=bool(to_buy or texts),
            usd_per_1k=usd_per_1k,
        ),
        left=budget_left(recipe.teacher),
        online=False,
    )


def embed_chosen(recipe: Recipe, choice: Choice, *, skip_bad: bool = False) -> Purchase:
    """Buy some of the training images that the store lacks; of a vendor the prompts too, which a run needs.

    The budget is for training images: accuracy of the teacher on test images is a comparison that a run can
    do without (missing_embeddings: text_term), and so is the val split.

    Raises RecipeError for a recipe whose training images are not asked about, or a budget in money without a
    price; RunError for a run of other classes; and what loading the data and the teacher raises.
    """
    sources = open_sources(recipe, World(), skip_bad=skip_bad)
    samples, views = training_of_recipe(recipe, sources)
    lacking = _missing(sources, samples, views)
    unheld = {sample.sha256 for sample in lacking}
    held = [sample for sample in samples if sample.sha256 not in unheld]
    texts = _texts_to_buy(recipe, sources)
    count = min(_queries(choice, recipe, sources, len(texts)) // views.queries, len(lacking))
    rows = _rows(choice, recipe, sources, lacking, held, count)
    chosen, asked_before = [lacking[row] for row in rows], sources.store.queries
    sources.store.embed_texts(texts)  # first: every run needs them
    if views.number:
        sources.store.embed_views(chosen, *views, f"{views.number} views of each chosen image")
    else:
        sources.store.embed_samples(chosen, "Chosen images")
    now_held = (len(held) + len(chosen)) * views.queries
    bought = sources.store.queries - asked_before
    return _purchase(sources, len(samples) * views.queries, bought, now_held, online=False)


def _missing(sources: Sources, samples: tuple[Sample, ...], views: Views) -> list[Sample]:
    return sources.store.missing(samples, *views) if views.number else sources.store.missing(samples)


def _texts_to_buy(recipe: Recipe, sources: Sources) -> list[str]:
    """Of a vendor, whose texts are bought once; another is asked when a run begins."""
    if not isinstance(sources.teacher, Vendor):
        return []
    return sources.store.missing_texts(texts_of_recipe(recipe, sources))


def _queries(choice: Choice, recipe: Recipe, sources: Sources, texts: int) -> int:
    """How many embeddings of images the choice pays for: by its number, and by its money after `texts`."""
    limits = [] if choice.queries is None else [choice.queries]
    if choice.usd is not None:
        # With what stands twice in a request.
        price = cost_of(sources.teacher, recipe.teacher, 10_000, 0, canaries=False).usd
        others = cost_of(sources.teacher, recipe.teacher, 0, texts, canaries=True).usd
        if not price or others is None:
            raise RecipeError(
                "--usd: the teacher states no price for images; give --budget N, the number of queries"
            )
        limits.append(max(0, int((choice.usd - others) / price * 10_000)))
    return min(limits)


def _rows(
    choice: Choice,
    recipe: Recipe,
    sources: Sources,
    lacking: list[Sample],
    held: list[Sample],
    count: int,
) -> list[int]:
    match choice.strategy:
        case "random":
            return random_rows(lacking, count, recipe.seed)
        case "balanced":
            return balanced_rows(lacking, held, count, recipe.seed)
        case "coverage":
            of_one = recipe_of_method(recipe, methods_of(recipe)[0])
            student = build_student(of_one, sources.teacher.embedding_dim, 2).to(sources.device)
            features = [
                sources.features.of_images(student, of_one, of) if of else torch.empty(0, 0)
                for of in (lacking, held)
            ]
            return coverage_rows(features[0], features[1], count)
        case "uncertain":
            assert choice.run is not None
            logits = _logits(choice.run, sources, lacking, recipe)
            return uncertain_rows(lacking, logits, count, recipe.seed)


def _logits(path: Path, sources: Sources, samples: list[Sample], recipe: Recipe) -> Tensor:
    """What the student of a run says of images; (N, K)."""
    run = load_run(path)
    classes = sources.data(recipe.data)[0].classes
    if run.record.classes != classes:
        raise RunError(
            f"{path}: is of the classes {', '.join(run.record.classes)}; the recipe's data has "
            f"{', '.join(classes)}: name a run of this data"
        )
    adapted = run.record.adapted and not trains_on_unlabelled(recipe)
    if adapted or recipe.data.target not in ("each", run.record.target):
        raise RunError(
            f"{path}: was trained on images of {recipe.data.target}, the recipe's target, which must have no "
            f"say in what is bought: name a run whose target is {recipe.data.target}"
        )
    if not samples:
        return torch.empty(0, len(classes))
    student, text_emb = run.student.to(sources.device), run.text_emb.to(sources.device)
    return compute_batched(
        lambda images: predict_logits(student(images), text_emb, run.logit_scale),
        [sample.path for sample in samples],
        run.recipe.student.image_size_px,
        sources.device,
        sources.cache,
        sources.world,
        "Student of the earlier run",
    )


def _purchase(sources: Sources, needed: int, bought: int, held: int, *, online: bool) -> Purchase:
    price = sources.teacher.price
    return Purchase(
        teacher=sources.teacher.identity,
        needed=needed,
        bought=bought,
        held=held,
        usd_per_1k_images=price.usd_per_1k_images if price else None,
        online=online,
    )
