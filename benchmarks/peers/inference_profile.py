"""Where our client's time goes, from JPEG bytes to label: decode, resize, session, the rest.

Pillow's and onnxruntime's own methods are timed from outside, so that it is the client that runs, as shipped.
What one of them spends inside another counts for the inner one. Run by the harness as a worker.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec

COMMAND = (sys.executable, str(Path(__file__).resolve()))
WARM_UP, REPEATS = 10, 5


def profile_client(
    bundle: Path, precision: str, photographs: Sequence[Path], threads: int, timeout_s: float
) -> dict[str, Any]:
    """Medians in milliseconds of each part and of the whole, measured in a process of its own."""
    settings = {
        "threads": threads,
        "bundle": str(bundle),
        "precision": precision,
        "images": [str(path) for path in photographs],
    }
    with EngineProcess(EngineSpec(f"profile of {precision}", settings, COMMAND), timeout_s) as process:
        return process.facts


def profile(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same in this process."""
    import onnxruntime
    from PIL import Image, ImageFile

    from vl2v_deploy.client import Student

    encoded = [Path(path).read_bytes() for path in settings["images"]]
    stopwatch = Stopwatch()
    student = Student.load(
        settings["bundle"],
        precision=settings["precision"],
        providers=("CPUExecutionProvider",),
        threads=int(settings["threads"]),
    )
    for image in (encoded * WARM_UP)[:WARM_UP]:
        student.predict(image)
    parts: dict[str, list[float]] = {}
    with (
        stopwatch.on(ImageFile.ImageFile, "load", "decode"),
        stopwatch.on(Image.Image, "resize", "resize"),
        stopwatch.on(onnxruntime.InferenceSession, "run", "session"),
    ):
        for image in encoded * REPEATS:
            stopwatch.seconds = dict.fromkeys(("decode", "resize", "session"), 0.0)
            start = perf_counter()
            student.predict(image)
            total = perf_counter() - start
            taken = stopwatch.seconds
            for part, seconds in (*taken.items(), ("total", total), ("rest", total - sum(taken.values()))):
                parts.setdefault(part, []).append(seconds)
    return {f"{part}_ms": 1e3 * median(seconds) for part, seconds in parts.items()} | {
        "calls": len(parts["total"])
    }


class Stopwatch:
    """Seconds spent in methods, by part; those in a method that another one calls count for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def on(self, owner: type, name: str, part: str) -> Iterator[None]:
        """Time a method of a class while the block runs."""
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            start = perf_counter()
            try:
                return method(*given, **named)
            finally:
                whole = perf_counter() - start
                self.seconds[part] = self.seconds.get(part, 0.0) + whole - self._inner.pop()
                self._inner[-1] += whole

        own = name in vars(owner)
        setattr(owner, name, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, method)
            else:
                delattr(owner, name)


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand between the replies
    print(json.dumps(profile(json.loads(sys.stdin.readline()))), file=replies, flush=True)


if __name__ == "__main__":
    main()
