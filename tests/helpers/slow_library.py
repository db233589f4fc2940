"""A worker of measure_peaks whose libraries have known speeds: `python slow_library.py`.

A product of size 100 is 2e6 FLOPs: in no less than 20 ms at most 1e8 a second, in no less than 5 ms 4e8.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from vl2v_deploy.benchmarking.worker import peaks_worker
from vl2v_deploy.benchmarking.worker.peaks_tried import Copy, Product
from vl2v_deploy.benchmarking.worker.peaks_worker import Attempts

SIZE, SLOW_S, FAST_S = 100, 0.020, 0.005
COPY_BYTES, COPY_S = 10**6, 0.010


def known(threads: int, device: str) -> Attempts:
    print("a library greets")  # must not reach the one who reads replies
    products = [
        Product("fp32", "slow", SIZE, sleeping(SLOW_S)),
        Product("fp32", "fast", SIZE, sleeping(FAST_S)),
        Product("fp32", "slow", 2, sleeping(FAST_S)),
        Product("int8", "slow", SIZE, sleeping(SLOW_S)),
    ]
    return products, Copy("asleep", COPY_BYTES, sleeping(COPY_S)), {"fp16": "absent"}


def sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


if __name__ == "__main__":
    peaks_worker.SECONDS_EACH = 0.05
    sys.exit(peaks_worker.main(known))
