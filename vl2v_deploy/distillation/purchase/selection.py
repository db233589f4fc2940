"""Which images to buy where the budget is smaller than the data.

Each function returns the rows to buy, the best first: a larger budget takes the same images and more. They
are deterministic: a hash of seed and content tells equal candidates apart, never their order on disk.

Sources: k-center greedy is Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
Approach", ICLR 2018, algorithm 1; least confidence is Lewis and Gale, SIGIR 1994.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vl2v_deploy.data.domains import Sample

Strategy = Literal["random", "balanced", "coverage", "uncertain"]


def random_rows(candidates: Sequence[Sample], count: int, seed: int) -> list[int]:
    """`count` of the candidates, all alike likely."""
    draws = [_draw(sample, seed) for sample in candidates]
    return sorted(range(len(candidates)), key=draws.__getitem__)[:count]


def balanced_rows(candidates: Sequence[Sample], held: Sequence[Sample], count: int, seed: int) -> list[int]:
    """`count` of the candidates, so that each class of each domain has as many as any other, if it has them.

    held: what is held already, and counts for its class and domain
    """
    draws = [_draw(sample, seed) for sample in candidates]
    waiting: dict[tuple[str, int], list[int]] = {}  # of each cell, the next one last
    for row in reversed(random_rows(candidates, len(candidates), seed)):
        waiting.setdefault(_cell(candidates[row]), []).append(row)
    have = Counter(map(_cell, held))
    chosen: list[int] = []
    while waiting and len(chosen) < count:
        # Of cells with as many the one whose next image comes first: no domain or class is preferred.
        cell = min(waiting, key=lambda of: (have[of], draws[waiting[of][-1]]))
        chosen.append(waiting[cell].pop())
        have[cell] += 1
        if not waiting[cell]:
            del waiting[cell]
    return chosen


def coverage_rows(features: Tensor, held: Tensor, count: int) -> list[int]:
    """k-center greedy: each next image is the farthest from all that are held or chosen.

    features: (N, d) of the candidates, held: (M, d) of what is held already. With nothing held the first is
              the one nearest to their mean.

    >>> line = torch.tensor([[0.0], [1.0], [5.0], [10.0]])
    >>> coverage_rows(line, line[:1], 2), coverage_rows(line, line[:0], 3)
    ([3, 2], [2, 0, 3])
    """
    chosen: list[int] = []
    if not len(held) and len(features):
        chosen.append(int((features - features.mean(dim=0)).norm(dim=1).argmin()))
        held = features[chosen]
    nearest = torch.full((len(features),), torch.inf)  # distance to what is held or chosen
    for start in range(0, len(held), 1024):
        nearest = nearest.minimum(torch.cdist(features, held[start : start + 1024]).amin(dim=1))
    nearest[chosen] = -1.0
    while len(chosen) < min(count, len(features)):
        row = int(nearest.argmax())
        chosen.append(row)
        nearest = nearest.minimum((features - features[row]).norm(dim=1))
        nearest[chosen] = -1.0  # also where two images have the same features
    return chosen[:count]


def uncertain_rows(candidates: Sequence[Sample], logits: Tensor, count: int, seed: int) -> list[int]:
    """`count` of the candidates about which a student is the least sure.

    logits: (N, K) of the student
    """
    confidence = logits.double().softmax(dim=1).amax(dim=1).tolist()
    draws = [_draw(sample, seed) for sample in candidates]
    return sorted(range(len(candidates)), key=lambda row: (confidence[row], draws[row]))[:count]


def _cell(sample: Sample) -> tuple[str, int]:
    return sample.domain, sample.label


def _draw(sample: Sample, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {sample.sha256}".encode()).digest()
