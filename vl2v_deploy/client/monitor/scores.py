"""Numbers and events of a student's answers that are watched, each put into a bin that was fixed beforehand.

A bin may not depend on the images that are compared, or the test of `betting` would not be exact: the grids
are constants, and the directions of the embedding come from the images the student was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats as Floats32
from vl2v_deploy.client.monitor.betting import Counts, Floats

BINS = 64
DIRECTIONS = 8  # of the embedding, along which a shift is looked for
# Nearly all variance of training is between classes, in K - 1 directions: what lies beyond the directions
# that hold this share of it shows a new style soonest.
SHARE_OF_VARIANCE, MOST_DIRECTIONS = 0.99, 32
# Confidence as log(p / (1 - p)): -4 is 2 %, 12 is 99.9994 %. Embeddings in standard deviations of training.
CONFIDENCE_RANGE, EMBEDDING_RANGE = (-4.0, 12.0), (-8.0, 8.0)
_LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Basis:
    """What an embedding is measured against, from P principal directions of training images.

    mean:       (D,)
    directions: (P, D) orthonormal, the one of most variance first; 99 % of all is in them, or P is 32
    scale:      (P,) standard deviation along each
    distance:   (2,) mean and standard deviation of an embedding's distance from mean + span(directions)
    """

    mean: Floats
    directions: Floats
    scale: Floats
    distance: Floats


def basis_of(embedding: Floats32) -> Basis:
    """The basis of training images' embeddings (N, D), N >= 1; exact in float32, as it is stored."""
    rows = embedding.astype(np.float64)
    mean = rows.mean(0)
    _, spread, every = np.linalg.svd(rows - mean, full_matrices=False)
    held = np.cumsum(spread**2) / max(float((spread**2).sum()), _LEAST_SCALE)
    enough = int((held < SHARE_OF_VARIANCE).sum()) + 1
    directions = every[: min(enough, MOST_DIRECTIONS, len(rows) - 1, rows.shape[1] - 1)]
    mean, directions = _rounded(mean), _rounded(directions)  # (D,), (P, D)
    along, beyond = _parts(rows, mean, directions)
    distance = np.array([beyond.mean(), beyond.std()])
    return Basis(mean, directions, _rounded(along.std(0)), _rounded(distance))


def confidence_bins(probability: Floats) -> Counts:
    """(N, 1) of the probabilities (N,) of the predicted classes; what is no number is in the lowest."""
    p = np.nan_to_num(np.asarray(probability, np.float64), nan=0.0).clip(1e-12, 1.0 - 1e-12)
    return _bins(np.log(p / (1.0 - p)), CONFIDENCE_RANGE)[:, None]


def event_bins(index: npt.NDArray[np.int64], abstained: npt.NDArray[np.bool_], classes: int) -> Counts:
    """(N, K + 1): 0 where the image was given the class, and last where the student abstained; else 1."""
    of_class = index[:, None] != np.arange(classes)
    return np.concatenate([of_class, ~abstained[:, None]], axis=1).astype(np.int64)


def embedding_bins(embedding: Floats32, basis: Basis) -> Counts:
    """Of embeddings (N, D): place along each of the first directions, and distance beyond all P of them.

    (N, min(P, 8) + 1)
    """
    along, beyond = _parts(np.asarray(embedding, np.float64), basis.mean, basis.directions)
    mean, scale = basis.distance
    places = (along / np.maximum(basis.scale, _LEAST_SCALE))[:, :DIRECTIONS]
    distance = (beyond - mean) / max(scale, _LEAST_SCALE)
    scaled = np.concatenate([places, distance[:, None]], axis=1)
    return _bins(np.nan_to_num(scaled, nan=np.inf), EMBEDDING_RANGE)


def centres(limits: tuple[float, float]) -> Floats:
    """The middle of each bin; (BINS,)."""
    low, high = limits
    return low + (high - low) * (np.arange(BINS) + 0.5) / BINS


def counts_of(bins: Counts, most: int) -> Counts:
    """How many of the images (N, S) are in each bin of each score; (S, most)."""
    return np.stack([np.bincount(column, minlength=most) for column in bins.T])


def _parts(rows: Floats, mean: Floats, directions: Floats) -> tuple[Floats, Floats]:
    """Of each embedding: its coordinates along the directions (N, P), its distance beyond them (N,)."""
    centred = rows - mean
    along = centred @ directions.T
    squared = (centred * centred).sum(1) - (along * along).sum(1)
    return along, np.sqrt(np.maximum(squared, 0.0))


def _rounded(values: Floats) -> Floats:
    return values.astype(np.float32).astype(np.float64)


def _bins(values: Floats, limits: tuple[float, float]) -> Counts:
    """Of B equal ones between the limits; what lies outside is in the first or last."""
    low, high = limits
    inside = (np.clip(values, low, high) - low) / (high - low)
    return np.minimum(inside * BINS, BINS - 1).astype(np.int64)
