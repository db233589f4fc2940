"""The kinds of scores that are watched; each kind has the same part of alpha.

confidence  of the answer
events      which class was given, and whether the student abstained
directions  where an embedding is along the first principal directions
distance    how far it is from all of them
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats as Floats32
from vl2v_deploy.client.monitor.betting import Bettors, Counts, Floats, odds, tilts
from vl2v_deploy.client.monitor.reference import Reference
from vl2v_deploy.client.monitor.scores import (
    CONFIDENCE_RANGE,
    EMBEDDING_RANGE,
    Basis,
    centres,
    confidence_bins,
    embedding_bins,
    event_bins,
)
from vl2v_deploy.client.monitor.watched import Watched

BETTORS: dict[str, Bettors] = {"confidence": tilts, "events": odds, "directions": tilts, "distance": tilts}


def bins_by_kind(
    basis: Basis,
    classes: int,
    index: npt.NDArray[np.int64],
    probability: Floats,
    abstained: npt.NDArray[np.bool_],
    embeddings: Floats32 | None,
) -> dict[str, Counts]:
    """The bins (N, S) of N answers, by kind; without embeddings, of the kinds that need none."""
    bins = {"confidence": confidence_bins(probability), "events": event_bins(index, abstained, classes)}
    if embeddings is not None:
        places = embedding_bins(embeddings, basis)
        bins |= {"directions": places[:, :-1], "distance": places[:, -1:]}
    return bins


def worth_by_kind(reference: Reference) -> dict[str, Floats]:
    """Independent images that the reference is worth in each bin (S, B), of the kinds that it has."""
    places = reference.worth("embedding")
    assert places is not None
    kinds = {
        "confidence": reference.worth("confidence"),
        "events": reference.worth("events"),
        "directions": places[:-1] if len(places) > 1 else None,
        "distance": places[-1:],
    }
    return {kind: worth for kind, worth in kinds.items() if worth is not None}


def watched_by_kind(reference: Reference, classes: tuple[str, ...], window: int) -> dict[str, Watched]:
    """Bets and window of each kind that the reference has, nothing seen yet."""
    names = {
        "confidence": ("confidence",),
        "events": (*(f"class {name}" for name in classes), "abstained"),
        "directions": tuple(f"embedding direction {n}" for n in range(1, len(reference.embedding))),
        "distance": ("embedding distance",),
    }
    middles = {
        "confidence": 1.0 / (1.0 + np.exp(-centres(CONFIDENCE_RANGE))),
        "events": np.array([1.0, 0.0]),
        "directions": centres(EMBEDDING_RANGE),
        "distance": centres(EMBEDDING_RANGE),
    }
    return {
        kind: Watched(names[kind], worth, middles[kind], BETTORS[kind], window)
        for kind, worth in worth_by_kind(reference).items()
    }
