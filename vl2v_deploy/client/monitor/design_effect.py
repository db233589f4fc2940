"""How many independent images a sample is worth whose images come in groups, as one object in all styles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.monitor.betting import Counts, Floats


def design_effects(bins: Counts, labels: npt.NDArray[np.int64], groups: Sequence[str]) -> Floats:
    """By how much groups raise the variance of each score's mean over that of independent images; (S,), >= 1.

    Kish's design effect (Survey Sampling, 1965), with the variance of a sample of whole groups in which the
    shares of the classes are given: the sums over groups of what is left beside the mean of the class vary.
    A class of one group does not show how groups differ in it; beside the mean of all images, it does. A
    sample of n images is worth n / effect. Exactly 1 where no group holds two images.

    bins:   (N, S), N >= 1
    labels: (N,) classes, of which the sample holds fixed shares
    groups: N names; images of one may depend on each other, those of different ones do not

    >>> bins = np.array([[0], [0], [8], [8], [4], [4], [4], [4]])
    >>> design_effects(bins, np.zeros(8, np.int64), list("aabbccdd")).round(2).tolist()  # pairs are equal
    [2.67]
    >>> design_effects(bins, np.zeros(8, np.int64), list("abcdefgh")).tolist()
    [1.0]
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]  # (N,)
    count = int(group.max()) + 1
    if count == len(group):
        return np.ones(bins.shape[1])
    values = bins.astype(np.float64)
    left = values - values.mean(0)
    variance = (left**2).sum(0)  # N times
    strata = 0
    for label in np.unique(labels):
        of_class = labels == label
        if len(np.unique(group[of_class])) > 1:
            left[of_class] = values[of_class] - values[of_class].mean(0)
            strata += 1
    sums = np.zeros((count, bins.shape[1]))
    np.add.at(sums, group, left)
    found = (sums**2).sum(0) * count / max(count - max(strata, 1), 1)
    effects = np.divide(found, variance, out=np.ones_like(found), where=variance > 0)
    return np.asarray(np.maximum(1.0, effects))
