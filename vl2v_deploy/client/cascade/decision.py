"""A share in place of a threshold: which images of a running cascade are the most unsure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from threading import Lock


class RunningShare:
    """A given share of the images, the most unsure of the last `window`; threads may share it.

    An image is unsure if the share of the window's images, itself among them, that are more unsure than it is
    at most `share`; ties are broken by lot. That is a smoothed conformal p-value (Vovk, Gammerman and Shafer,
    2005): as long as the images are exchangeable, each is unsure with a probability of exactly `share`, from
    the first one on and whatever ties there are. When they change, the real share is off until the window
    holds images of the new kind.

    share:  in [0, 1]
    window: images that are compared with
    draw:   a random number in [0, 1) for each image
    """

    def __init__(self, share: float, window: int, draw: Callable[[], float]) -> None:
        self.share, self.window, self._draw = share, window, draw
        self._lock = Lock()
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def __call__(self, unsureness: float) -> bool:
        with self._lock:
            last = bisect_right(self._sorted, unsureness)
            more_unsure = len(self._sorted) - last
            equal = last - bisect_left(self._sorted, unsureness) + 1  # with itself
            rank = (more_unsure + self._draw() * equal) / (len(self._sorted) + 1)
            if len(self._last) == self.window:
                del self._sorted[bisect_left(self._sorted, self._last.popleft())]
            self._last.append(unsureness)
            insort(self._sorted, unsureness)
            return rank < self.share or self.share == 1.0  # rounding may lift a rank to 1
