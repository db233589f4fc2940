"""What a recipe's purchase will cost in money and hours, before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation.purchase.needed import Needed, Views
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.models.ledger.ledger import Budget, Ledger, ledger_file
from vl2v_deploy.models.store.canaries import CANARIES
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.protocol import FileTeacher, Teacher, Vendor
from vl2v_deploy.recipe import HttpRecipe, TeacherRecipe


class Cost(NamedTuple):
    """What a number of images and texts takes.

    images, texts: that are sent, those that stand twice in a request too
    usd:   None where no price is known
    hours: at the limits of the recipe; None where it names none
    """

    images: int
    texts: int
    usd: float | None
    hours: float | None


@dataclass(frozen=True)
class Estimate:
    """The purchase that a recipe's runs still need.

    teacher: its identity
    needed:  embeddings of images and views that the runs ask for, each counted once
    held:    of them, those that the store holds
    to_buy:  of the others, those that would be bought: all, or as many as were chosen
    texts:   that would be asked
    cost:    of all that is to buy
    left:    of the budget; None where the recipe has none
    online:  whether training will ask for more
    """

    teacher: str
    needed: int
    held: int
    to_buy: int
    texts: int
    cost: Cost
    left: Budget | None
    online: bool

    @property
    def fits(self) -> bool:
        """Whether the budget is enough."""
        usd, queries = self.left or (None, None)
        return (usd is None or (self.cost.usd or 0.0) <= usd) and (
            queries is None or self.cost.images + self.cost.texts <= queries
        )


def estimate_needed(
    needed: Needed, recipe: TeacherRecipe, sources: Sources, usd_per_1k: float | None = None
) -> Estimate:
    """The estimate of what is needed, beside what the store holds.

    usd_per_1k: price of 1,000 images, in place of the one that the teacher states
    """
    store, teacher = sources.store, sources.teacher
    to_buy = queries_to_buy(store, needed.plain)
    to_buy += sum(queries_to_buy(store, samples, views) for views, samples in needed.viewed.items())
    texts = len(store.missing_texts(needed.texts))
    return Estimate(
        teacher=teacher.identity,
        needed=needed.queries,
        held=needed.queries - to_buy,
        to_buy=to_buy,
        texts=texts,
        cost=cost_of(
            teacher,
            recipe,
            to_buy,
            texts,
            canaries=bool(to_buy or texts),
            usd_per_1k=usd_per_1k,
        ),
        left=budget_left(recipe),
        online=needed.online,
    )


def queries_to_buy(store: EmbeddingStore, samples: Sequence[Sample], views: Views | None = None) -> int:
    """How many embeddings of these images would be bought; an image that lacks one view counts with all."""
    if views is None or not views.number:
        return len(store.missing(samples))
    return views.number * len(store.missing(samples, *views))


def cost_of(
    teacher: Teacher,
    recipe: TeacherRecipe,
    images: int,
    texts: int,
    *,
    canaries: bool,
    apart: Sequence[int] = (),
    usd_per_1k: float | None = None,
) -> Cost:
    """What it takes at most to ask about so many images and texts.

    canaries: whether it is a purchase for the store, at which a vendor is asked about its canaries too
    apart:    further images, each number of them asked about on its own
    """
    if isinstance(teacher, FileTeacher):
        return Cost(0, 0, 0.0, 0.0)
    of_canaries = [CANARIES] if canaries and isinstance(teacher, Vendor) else []
    size = teacher.batch_size
    repeats = isinstance(recipe, HttpRecipe) and size < recipe.batch_size  # an item of a request stands twice
    image_requests, images = _requests([images, *apart, *of_canaries], size, repeats=repeats)
    text_requests, texts = _requests([texts, *of_canaries], size, repeats=repeats)
    return Cost(
        images,
        texts,
        _usd(teacher, images, texts, usd_per_1k),
        _hours(recipe, image_requests + text_requests, images),
    )


def _requests(groups: Sequence[int], size: int, *, repeats: bool) -> tuple[int, int]:
    """How many requests of at most `size` items each group takes, and how many items they hold.

    repeats: whether a request of several items holds one of them twice

    >>> _requests([7, 3], 3, repeats=True)
    (4, 13)
    """
    requests = sum(-(-items // size) for items in groups)
    of_several = sum(items // size * (size > 1) + (items % size > 1) for items in groups)
    return requests, sum(groups) + of_several * repeats


def budget_left(recipe: TeacherRecipe) -> Budget | None:
    """What is left of the recipe's budget: what was neither paid nor possibly paid, and is not in flight."""
    if not isinstance(recipe, HttpRecipe) or recipe.budget.max_usd is recipe.budget.max_queries is None:
        return None
    file = ledger_file(recipe.host, recipe.key_env)
    entries = Ledger(file, Budget(None, None)).entries()
    usd, queries = recipe.budget.max_usd, recipe.budget.max_queries
    return Budget(
        None if usd is None else max(0.0, usd - sum(entry.usd for entry in entries)),
        None if queries is None else max(0, queries - sum(e.images + e.texts for e in entries)),
    )


def _usd(teacher: Teacher, images: int, texts: int, usd_per_1k: float | None) -> float | None:
    price = teacher.price
    of_image = usd_per_1k if usd_per_1k is not None else price.usd_per_1k_images if price else 0.0
    of_text = price.usd_per_1k_texts if price else 0.0
    if of_image is None or (of_text is None and texts):
        return None
    return (images * of_image + texts * (of_text or 0.0)) / 1000


def _hours(recipe: TeacherRecipe, requests: int, images: int) -> float | None:
    if not isinstance(recipe, HttpRecipe):
        return None
    limits = ((requests, recipe.requests_per_minute), (images, recipe.images_per_minute))
    hours = [count / limit / 60 for count, limit in limits if limit is not None]
    return max(hours) if hours else None
