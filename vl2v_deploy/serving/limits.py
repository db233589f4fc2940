"""How much each client may ask in a minute: token buckets in memory, one pair for each address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST_CLIENTS = 10_000  # the one that was silent longest is forgotten, and with it what it owed


@dataclass
class _Bucket:
    tokens: float
    at: float


class ClientLimits:
    """Answers whether a client may ask now; not for several threads.

    requests_per_minute, images_per_minute: None = no limit; a minute's worth may come at once
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        images_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = (requests_per_minute, images_per_minute)
        self._clock = clock
        self._clients: OrderedDict[str, list[_Bucket]] = OrderedDict()

    def wait_s(self, client: str, images: int) -> float:
        """0 when a request with so many images is let in, and counted; else seconds until it would be.

        A request of more images than a minute allows is let in when the minute is whole, and paid off after.
        """
        if self._limits == (None, None):
            return 0.0
        now = self._clock()
        buckets = self._clients.pop(client, None) or [_Bucket(limit or 0.0, now) for limit in self._limits]
        self._clients[client] = buckets  # the last is the one that asked last
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)
        waits = [
            _refilled_wait_s(bucket, limit, wanted, now)
            for bucket, limit, wanted in zip(buckets, self._limits, (1, images), strict=True)
        ]
        if max(waits) == 0.0:
            for bucket, wanted in zip(buckets, (1, images), strict=True):
                bucket.tokens -= wanted
        return max(waits)


def _refilled_wait_s(bucket: _Bucket, per_minute: float | None, wanted: int, now: float) -> float:
    """Seconds until the bucket holds what is wanted, or is full."""
    if per_minute is None:
        return 0.0
    bucket.tokens = min(per_minute, bucket.tokens + (now - bucket.at) * per_minute / 60)
    bucket.at = now
    return max(0.0, min(wanted, per_minute) - bucket.tokens) * 60 / per_minute
