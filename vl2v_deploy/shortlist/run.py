"""`vl2v-deploy shortlist`: candidates exported untrained, timed together, the best that fit chosen."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from vl2v_deploy.bars import Bars
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.session import open_session
from vl2v_deploy.client.threads import session_threads
from vl2v_deploy.errors import VL2VError
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe
from vl2v_deploy.shortlist.candidates import (
    imagenet_top1,
    known_top1,
    pretrained_tags,
    require_known,
)
from vl2v_deploy.shortlist.exported import (
    Exported,
    export_untrained,
    recipe_of_student,
    with_backbone,
)
from vl2v_deploy.shortlist.timing import LIMIT_S, MOST, Times, timed

Key: TypeAlias = tuple[str, str]  # backbone, precision
BY_ACCURACY = "ImageNet accuracy"
BY_MACS = "multiply-accumulates, as their accuracy is not known"


@dataclass(frozen=True)
class Candidate:
    """One backbone as it was measured.

    parameters:    of the backbone alone
    pretrained:    tags of the weights that timm can fetch; the first is what `weights: timm` means
    imagenet_top1: in percent, of these first weights, and the image size of that result; None = not known
    bytes:         of the file of each precision
    median_ms:     of one image, by precision
    refused:       by precision that it has no file of, why
    """

    backbone: str
    parameters: int
    macs: int
    pretrained: tuple[str, ...]
    imagenet_top1: tuple[float, int] | None
    bytes: Mapping[str, int]
    median_ms: Mapping[str, float]
    refused: Mapping[str, str]

    def fitting(self, latency_ms: float) -> list[str]:
        """The precisions in which it is fast enough."""
        return [precision for precision, ms in self.median_ms.items() if ms <= latency_ms]


@dataclass(frozen=True)
class Shortlist:
    """What was measured, and what was chosen of it.

    latency_ms:  the limit
    threads:     within an operator; None = onnxruntime's own choice
    rounds:      samples of each median
    busy:        the largest ratio of a median to the least sample: how far other work disturbed the times
    measured:    in the order in which they were asked for
    failed:      by backbone that could not be built, exported or run, why
    left_out:    for want of time
    chosen:      the best that fit and have pretrained weights, best first
    ranked_by:   what "best" means
    """

    latency_ms: float
    image_size_px: int
    threads: int | None
    rounds: int
    busy: float
    device: Mapping[str, str | int]
    versions: Mapping[str, str]
    measured: tuple[Candidate, ...]
    failed: Mapping[str, str]
    left_out: tuple[str, ...]
    chosen: tuple[str, ...]
    ranked_by: str


def make_shortlist(
    recipe: Recipe,
    backbones: Sequence[str],
    *,
    latency_ms: float,
    minutes: float,
    keep: int,
    accuracy: Path | None = None,
    threads: int | None = None,
) -> Shortlist:
    """The backbones' latency on this machine's CPU at the recipe's image size, and the best that fit.

    latency_ms: the most that one image may take, in fp32 or int8
    minutes:    after which no further backbone is begun; the first is always tried
    keep:       how many are chosen at most
    accuracy:   timm's results-imagenet.csv
    threads:    within an operator; None = as the client chooses

    Raises ModelError for a name that timm does not have or a file of accuracies that is something else,
    RecipeError for a recipe without a backbone of choice.
    """
    names = tuple(dict.fromkeys(backbones))
    require_known(names)
    known = imagenet_top1(accuracy) if accuracy else {}
    one = recipe_of_student(recipe)
    size_px = one.student.image_size_px
    if threads is None:
        threads, _ = session_threads()
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, _bars() as bars:
        exported, left_out = _export_all(one, names, minutes, Path(folder), failed, bars)
        sessions = _open_all(exported, threads, failed)
        advance = partial(bars.advance, bars.add_task("Timing", total=MOST + 1))
        times = timed(sessions, size_px, advance) if sessions else Times[Key]({}, {}, 0)
        measured = tuple(_candidate(each, times, known) for each in exported if each.backbone not in failed)
    return Shortlist(
        latency_ms=latency_ms,
        image_size_px=size_px,
        threads=threads,
        rounds=times.rounds,
        busy=round(times.busy, 2),
        device=describe_device(),
        versions=package_versions(),
        measured=measured,
        failed=failed,
        left_out=tuple(left_out),
        chosen=chosen_of(measured, latency_ms, keep),
        ranked_by=BY_ACCURACY if any(each.imagenet_top1 for each in measured) else BY_MACS,
    )


def chosen_of(measured: Sequence[Candidate], latency_ms: float, keep: int) -> tuple[str, ...]:
    """The best that are fast enough and have weights to begin with; without known accuracy the largest."""
    fit = [each for each in measured if each.pretrained and each.fitting(latency_ms)]
    fit.sort(key=lambda each: (each.imagenet_top1 or (0.0, 0), each.macs), reverse=True)
    return tuple(each.backbone for each in fit[:keep])


def _bars() -> Bars:
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        transient=True,
    )


def _export_all(
    recipe: Recipe, names: Sequence[str], minutes: float, folder: Path, failed: dict[str, str], bars: Bars
) -> tuple[list[Exported], list[str]]:
    """What was exported, and the names for which there was no time; why others failed goes into `failed`."""
    task = bars.add_task("Exporting", total=len(names))
    box, longest_s, exported = TimeBox(60 * minutes - LIMIT_S), 0.0, []
    for number, name in enumerate(names):
        if number and not box.has_room(longest_s, name):
            continue
        bars.update(task, description=f"Exporting {name}")
        began = time.monotonic()
        try:
            exported.append(export_untrained(with_backbone(recipe, name), folder))
        except VL2VError as error:
            failed[name] = str(error)
        longest_s = max(longest_s, time.monotonic() - began)
        bars.advance(task)
    bars.update(task, visible=False)
    return exported, box.left_out


def _open_all(exported: Sequence[Exported], threads: int | None, failed: dict[str, str]) -> dict[Key, Any]:
    """The session of each file by backbone and precision; why one does not load is noted in its place."""
    sessions = {}
    for each in exported:
        for precision, file in list(each.files.items()):
            try:
                sessions[each.backbone, precision] = open_session(file, threads=threads)
            except VL2VError as error:
                why = str(error).replace(f"{file.parent}/", "")
                if precision == "fp32":
                    failed[each.backbone] = why
                else:
                    each.refused[precision] = why
                    del each.files[precision]
    return {key: session for key, session in sessions.items() if key[0] not in failed}


def _candidate(
    exported: Exported,
    times: Times[Key],
    known: Mapping[str, tuple[float, int]],
) -> Candidate:
    tags = pretrained_tags(exported.backbone)
    return Candidate(
        backbone=exported.backbone,
        parameters=exported.parameters,
        macs=exported.macs,
        pretrained=tags,
        imagenet_top1=known_top1(exported.backbone, tags, known),
        bytes={precision: file.stat().st_size for precision, file in exported.files.items()},
        median_ms={p: round(times.median_ms[exported.backbone, p], 3) for p in exported.files},
        refused=exported.refused,
    )
