"""A student under concurrent load of good and hostile images: does it stay right, and does memory stay flat?

    python benchmarks/soak_client.py --minutes 2 --bundle bundles/q

Threads ask by predict, predict_batch, stream, MicroBatcher and asyncio (see soak_callers.py); every answer is
held against the one that the student gave alone before. Exit 1 with what went wrong: an answer that is
another image's, lost, or refused without reason; memory that grows; threads or files that stay open.
Needs Linux, for /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.hostile_images import hostile_images, ordinary_images, unusual_images
from benchmarks.soak_callers import WAYS, Load, Question, call
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client import MicroBatcher, Student
from vl2v_deploy.errors import ImageError, VL2VError

# Batches of other sizes round differently: an answer may be off by this share of the spread over images.
TOLERANCE_SHARE = 0.02
# Flat: the median of the last third of the samples is at most so far above that of the middle third. glibc
# gives threads heaps of their own, which take a minute or more to fill (MALLOC_ARENA_MAX=2 shows how little
# is in them). In two minutes, a kilobyte or two an image is the least leak that shows.
GROWTH_BYTES, GROWTH_SHARE = 16_000_000, 0.04
STUCK_S = 60.0


def questions_for(student: Student) -> tuple[list[Question], float]:
    """All images with the student's own answers, and the tolerance; SystemExit when it answers all alike."""
    good = {**ordinary_images(40), **unusual_images()}
    rows = {name: np.asarray(student.predict(image, logits=True).logits) for name, image in good.items()}
    logits = np.stack(list(rows.values()))  # (N, K)
    tolerance = TOLERANCE_SHARE * float(logits.std(0).max())
    apart = np.abs(logits[:, None] - logits[None]).max(-1) > 2 * tolerance  # (N, N)
    if apart.sum(1).mean() < 0.9 * len(logits):
        raise SystemExit(
            "this student answers these images so much alike that mixed-up answers would not show"
        )
    questions = [Question(name, image, rows[name]) for name, image in good.items()]
    for name, image in hostile_images().items():
        try:
            said = student.predict(image)
        except ImageError:
            questions.append(Question(name, image, None))
        else:
            raise SystemExit(f"{name}: was answered {said.label}, must be refused, even without any load")
    return questions, tolerance


def soak(student: Student, seconds: float, threads: int, progress: bool = True) -> dict[str, Any]:
    """What happened in so many seconds of load; the facts of the report."""
    questions, tolerance = questions_for(student)
    before = {"threads": threading.active_count(), "files": open_files()}
    batcher = MicroBatcher(student, max_batch=8, workers=2)
    load = Load(student, batcher, questions, tolerance)
    callers = [
        threading.Thread(target=call, args=(load, WAYS[seed % len(WAYS)], seed), daemon=True)
        for seed in range(threads)
    ]
    for caller in callers:
        caller.start()
    samples, interrupted = sample_memory(load, seconds, progress)
    load.stop.set()
    end_s = time.monotonic() + STUCK_S
    for caller in callers:
        caller.join(max(0.0, end_s - time.monotonic()))
    stuck = sum(caller.is_alive() for caller in callers)
    if stuck:
        load.blame(f"{stuck} of {threads} callers still wait for an answer {STUCK_S:.0f} s after the end")
    else:
        batcher.close()
    said = batcher.statistics
    return {
        "seconds": seconds,
        "interrupted": interrupted,
        "threads": threads,
        "images": len(questions),
        "logit_tolerance": tolerance,
        **load.counts,
        "batches": said.batches,
        "mean_batch": said.mean_batch,
        "before": before,
        "after": {"threads": threading.active_count(), "files": open_files()},
        "rss_bytes": samples,
        "wrong": load.wrong,
    }


def sample_memory(load: Load, seconds: float, progress: bool) -> tuple[list[int], bool]:
    """Resident bytes, 120 to 1200 times in equal steps; True when Ctrl-C ended it early."""
    samples: list[int] = []
    started_s = time.monotonic()
    step_s = min(max(seconds / 1200, 0.25), seconds / 120)
    shown_s = 0.0
    try:
        while not load.stop.wait(step_s) and (passed_s := time.monotonic() - started_s) < seconds:
            samples.append(rss_bytes())
            if progress and passed_s - shown_s >= min(10.0, seconds / 4):
                shown_s = passed_s
                print(
                    f"{passed_s:5.0f} of {seconds:.0f} s: {load.counts['asked']} asked, "
                    f"{len(load.wrong)} wrong, {samples[-1] / 1e6:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        return samples, True
    return samples, False


def verdicts(report: dict[str, Any]) -> list[str]:
    """What went wrong, one line each; empty when nothing did. Notes the medians of memory in the report."""
    wrong = list(report["wrong"])
    done = report["answered"] + report["refused"] + report["left"]
    if not wrong and done != report["asked"]:
        wrong.append(f"{report['asked']} images were asked for, {done} came back")
    for what, after in report["after"].items():
        if after > report["before"][what]:
            wrong.append(f"{what}: {report['before'][what]} before, {after} after")
    samples = report["rss_bytes"]
    third = len(samples) // 3
    if third < 10:
        return [*wrong, f"memory was sampled {len(samples)} times: too few to judge"]
    middle, last = median(samples[third : 2 * third]), median(samples[-third:])
    allowed = GROWTH_BYTES + GROWTH_SHARE * middle
    report["memory"] = {"middle_bytes": middle, "last_bytes": last, "allowed_growth_bytes": allowed}
    if last - middle > allowed:
        wrong.append(
            f"memory grew: {middle / 1e6:.1f} MB in the middle third, {last / 1e6:.1f} MB in the last; "
            f"allowed {allowed / 1e6:.1f} MB"
        )
    return wrong


def rss_bytes() -> int:
    """What this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all went well, 1 with what did not."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=10, help="callers; at least 5, one of each way")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/q"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    options = parser.parse_args(given)
    if options.minutes <= 0 or options.threads < len(WAYS):
        parser.error(f"expected --minutes above 0 and --threads of at least {len(WAYS)}")
    try:
        student = Student.load(options.bundle, precision=options.precision, threads=1)
    except VL2VError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    with student:
        report = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "benchmarks/soak_client.py", *given]),
            "device": describe_device(),
            "versions": {name: version(name) for name in ("vl2v-deploy", "numpy", "pillow", "onnxruntime")},
            "precision": student.precision,
            **soak(student, options.minutes * 60, options.threads),
        }
    report["wrong"] = verdicts(report)
    if options.out:
        text = json.dumps(report, indent=1)
        options.out.write_text(
            re.sub(r"\[\n[-\d.\s,]+\]", lambda found: " ".join(found[0].split()), text) + "\n"
        )
    print(
        f"{report['asked']} images asked for in {report['threads']} threads: {report['answered']} answered "
        f"as alone, {report['refused']} refused, {report['left']} left early; batches of "
        f"{report['mean_batch']:.1f}; memory {rounded(report)}; threads and files before and after: "
        f"{report['before']}, {report['after']}" + "; interrupted" * report["interrupted"]
    )
    for line in report["wrong"]:
        print(f"WRONG: {line}")
    return 1 if report["wrong"] else 0


def rounded(report: dict[str, Any]) -> str:
    if "memory" not in report:
        return "not judged"
    return f"{report['memory']['middle_bytes'] / 1e6:.1f} then {report['memory']['last_bytes'] / 1e6:.1f} MB"


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: it would wait for callers that are stuck
