"""The standard error of a mean over domains, of images that come in groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def deviations_by_group(values: Sequence[Floats], groups: Sequence[Sequence[str]]) -> Floats:
    """Of each group, the part that it has in the mean's deviation; sums to 0.

    values: of each domain (n,) numbers, n >= 1; the mean is that of the domains' means
    groups: of each domain n group names; a group may have images in several domains

    >>> deviations_by_group([np.array([1.0, 0.0]), np.array([1.0, 1.0])], [["a", "b"], ["a", "b"]])
    array([ 0.125, -0.125])
    """
    found: dict[str, float] = {}
    for one, names in zip(values, groups, strict=True):
        parts = (one - one.mean()) / len(one) / len(values)
        for name, part in zip(names, parts.tolist(), strict=True):
            found[name] = found.get(name, 0.0) + part
    return np.array(list(found.values()))


def standard_error(values: Sequence[Floats], groups: Sequence[Sequence[str]]) -> float:
    """Of the mean over domains, by its linearised variance over groups; arguments as above.

    >>> values, groups = np.array([1.0, 0.0] * 50), [str(number) for number in range(100)]
    >>> standard_error([values], [groups])
    0.05
    """
    return float(np.sqrt(np.square(deviations_by_group(values, groups)).sum()))
