"""What a vendor is asked while this machine trains: waiting for a paid API costs the run no time then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from torch import Tensor

from vl2v_deploy.data.domains import Sample
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.models.teacher.protocol import Vendor
from vl2v_deploy.recipe import Recipe
from vl2v_deploy.terminal import new_console


@contextmanager
def bought_meanwhile(
    samples: Sequence[Sample], recipe: Recipe, sources: Sources
) -> Iterator[Callable[[], Tensor | None]]:
    """Has a vendor asked about the images in a thread while the block runs, which must not use the store.

    Gives a function that waits for the answers, (N, D) on the CPU, and raises what buying them raised; None
    where they are to be asked for later. When the block fails or is interrupted, nothing new is asked; what
    is in flight is waited for and kept.

    A teacher on this machine would only take turns with the training on its processors. Several processes
    share a purchase, for which all of them have to be free.
    """
    vendor = isinstance(sources.teacher, Vendor) and sources.world.size == 1
    if not vendor or recipe.missing_embeddings != "buy" or recipe.teacher_views == "online":
        yield lambda: None
        return
    store = sources.store
    if missing := len(store.missing(samples)):
        new_console(stderr=True).print(
            f"The teacher is asked about {missing} test images while the student trains."
        )
    with ThreadPoolExecutor(1, thread_name_prefix="meanwhile") as pool:
        bought = pool.submit(store.embed_samples, samples, "")
        try:
            yield bought.result
        except BaseException:
            store.stopping.set()
            raise
