"""Whether the images that a student sees are still like those it was measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from threading import Lock
from time import time

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats as Floats32
from vl2v_deploy.client.answers import Prediction, softmax
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.micro_batcher import BatcherStatistics
from vl2v_deploy.client.monitor.betting import Counts, Floats, share_of_alpha
from vl2v_deploy.client.monitor.drift import Alarm, Drift
from vl2v_deploy.client.monitor.exposition import exposition
from vl2v_deploy.client.monitor.kinds import bins_by_kind, watched_by_kind
from vl2v_deploy.client.monitor.operations import Operations
from vl2v_deploy.client.monitor.reference import load_reference
from vl2v_deploy.client.student import Student

_LOGGER = logging.getLogger("vl2v_deploy.client")
_REMEMBERED = 8  # windows of images whose times are kept


class Monitor:
    """Compares a student's answers with those it gave to source validation. Safe to share between threads.

    A two-sample test after every image, whose chance of ever raising a false alarm is at most `alpha`: it
    accounts for looking often and for the few images of the reference (see `betting`). The images are taken
    in stretches of `window`, each compared with the reference anew, so that a slow drift is not taken for
    normal; alpha is divided among the stretches.

    It holds for images that come independently: of a video's frames, observe one a scene.

    >>> monitor = Monitor(Student.load("bundles/quickstart"))  # doctest: +SKIP
    >>> monitor.observe(student.predict("photo.jpg"))  # doctest: +SKIP
    >>> print(monitor.drift())  # doctest: +SKIP
    no drift shown in 1 images against 304 of source validation (evidence 0.25, an alarm needs 271)
    """

    def __init__(
        self,
        student: Student | Bundle,
        *,
        precision: str | None = None,
        window: int = 512,
        alpha: float = 0.01,
        seed: int = 0,
    ) -> None:
        """A monitor that has seen nothing.

        student:   whose answers are observed, or its bundle
        precision: of the file that answers; None = the student's, and fp32 of a bundle
        window:    images that `drift` describes, and that a stretch of the test has
        alpha:     chance of a false alarm, ever, in (0, 1)
        seed:      of the draws that break ties

        Raises BundleError for a bundle exported before there were reference statistics, ValueError for a
        window below 16 or an alpha that is no chance.
        """
        if window < 16:
            raise ValueError(f"window {window}: expected at least 16 images")
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha {alpha}: expected a chance above 0 and below 1")
        bundle = student if isinstance(student, Bundle) else student.bundle
        self.precision = precision or ("fp32" if isinstance(student, Bundle) else student.precision)
        self.window, self.alpha = window, alpha
        self.operations = Operations()
        self._classes = bundle.classes
        self._abstain_below = bundle.manifest.confidence.abstain_below or 0.0
        self._reference = load_reference(bundle, self.precision)
        self._watched = watched_by_kind(self._reference, self._classes, window)
        self._random = np.random.default_rng(seed)
        self._lock = Lock()  # guards everything below, and the draws
        self._images, self._first = 0, 0  # first: images before the start or last `reset`
        self._stretch = 1
        self._times = np.zeros(_REMEMBERED * window)
        self._alarm: Alarm | None = None

    def observe(
        self, predictions: Prediction | Iterable[Prediction], embeddings: Floats32 | None = None
    ) -> None:
        """Take in one prediction, or several in the order in which they came.

        embeddings: (D,) of the one, or (N, D), as `Student.run` and `Student.embed` give them; drift shows
                    soonest in them. None = those that the predictions hold, if all do; else only confidence,
                    classes and abstaining are compared

        Raises ValueError for predictions of another file or other classes, or embeddings of another shape;
        then nothing was taken in.
        """
        several = (predictions,) if isinstance(predictions, Prediction) else tuple(predictions)
        for one in several:
            if one.runtime.precision != self.precision:
                raise ValueError(
                    f"a prediction of the {one.runtime.precision} file: this Monitor compares with answers "
                    f"of the {self.precision} file; make one with precision={one.runtime.precision!r}"
                )
        if embeddings is None and several and all(one.embedding is not None for one in several):
            embeddings = np.array([one.embedding for one in several], np.float32)
        if embeddings is not None and np.ndim(embeddings) == 1:
            embeddings = np.asarray(embeddings)[None]
        self.observe_answers(
            [one.index for one in several],
            [one.probability for one in several],
            [one.abstained for one in several],
            embeddings,
        )

    def observe_outputs(self, logits: Floats32, embeddings: Floats32) -> None:
        """Take in a batch as `Student.run` returns it: logits (B, K), embeddings (B, D).

        What MicroBatcher(observer=...) calls after each batch.
        """
        if not len(logits):
            return
        probability = softmax(logits).max(1)
        self.operations.count_batch(len(logits))
        self.observe_answers(logits.argmax(1), probability, ~(probability >= self._abstain_below), embeddings)

    def observe_answers(
        self,
        index: Sequence[int] | npt.NDArray[np.int64],
        probability: Sequence[float] | Floats,
        abstained: Sequence[bool] | npt.NDArray[np.bool_],
        embeddings: Floats32 | None,
    ) -> None:
        """The same from columns, such as those of a log: N classes by index, probabilities, abstentions."""
        label, unsure = np.asarray(index, np.int64).reshape(-1), np.asarray(abstained, bool).reshape(-1)
        sure = np.asarray(probability, np.float64).reshape(-1)
        if not len(label) == len(sure) == len(unsure):
            raise ValueError(f"columns of different lengths: {len(label)}, {len(sure)}, {len(unsure)}")
        if len(label) and not 0 <= label.min() <= label.max() < len(self._classes):
            raise ValueError(f"a class index outside 0 to {len(self._classes) - 1}: not of this bundle")
        dim = len(self._reference.basis.mean)
        if embeddings is not None and np.shape(embeddings) != (len(label), dim):
            raise ValueError(f"embeddings: expected ({len(label)}, {dim}), got {np.shape(embeddings)}")
        if embeddings is None and "confidence" not in self._watched:
            raise ValueError(
                "embeddings: this bundle was relabelled, so only embeddings can be compared: pass them too"
            )
        seen = bins_by_kind(self._reference.basis, len(self._classes), label, sure, unsure, embeddings)
        self.operations.count_answers(len(label), int(unsure.sum()))
        now = time()
        with self._lock:
            for row in range(len(label)):
                self._take({kind: seen[kind][row] for kind in self._watched if kind in seen}, now)

    def drift(self) -> Drift:
        """How far the last images are from the reference, in which statistic, and since when."""
        with self._lock:
            statistics = [one for watched in self._watched.values() for one in watched.statistics()]
            return Drift(
                alarm=self._alarm,
                images=self._images,
                in_window=min(self._images - self._first, self.window),
                reference=int(self._reference.embedding[0].sum()),
                evidence=self._evidence(),
                needed=self._needed(),
                statistics=tuple(sorted(statistics, key=lambda one: -one.evidence)),
            )

    def reset(self) -> None:
        """Forget the alarm and the window and compare anew; what was spent of alpha stays spent."""
        with self._lock:
            self._alarm = None
            self._watched = watched_by_kind(self._reference, self._classes, self.window)
            self._first = self._images
            self._stretch += 1

    def metrics(
        self,
        batcher: BatcherStatistics | None = None,
        *,
        escalated: int | None = None,
        spent_usd: float | None = None,
        budget_usable: bool | None = None,
    ) -> str:
        """All of it in Prometheus' text format (exposition.CONTENT_TYPE), for a /metrics endpoint.

        batcher:   statistics of the MicroBatcher that answers
        escalated: images that a cascade escalated, whether or not the teacher answered (CascadeSummary)
        spent_usd: what the cascade's queries have cost
        budget_usable: whether the file of its budget can be read; None = it has none (all three as of
                   CascadeSummary)
        """
        return exposition(self.operations, self.drift(), batcher, escalated, spent_usd, budget_usable)

    def _take(self, bins: dict[str, Counts], now: float) -> None:
        """One image; the alarm is raised when the evidence first suffices."""
        if self._images > self._first and (self._images - self._first) % self.window == 0:
            self._stretch += 1
            for watched in self._watched.values():
                watched.restart()
        self._times[self._images % len(self._times)] = now
        self._images += 1
        for kind, row in bins.items():
            self._watched[kind].observe(row, self._random.random(len(row)), self._images)
        if self._alarm is None and (evidence := self._evidence()) >= self._needed():
            self._alarm = self._raised(evidence, now)
            _LOGGER.warning(
                "drift: alarm at image %d, since about image %d, most in %s; see Monitor.drift()",
                *(self._alarm.at, self._alarm.since, self._alarm.statistic),
            )

    def _raised(self, evidence: float, now: float) -> Alarm:
        kind = max(self._watched.values(), key=lambda watched: watched.evidence)
        most = max(kind.statistics(), key=lambda statistic: statistic.evidence)
        remembered = self._images - most.since < len(self._times)
        began_s = float(self._times[(most.since - 1) % len(self._times)]) if remembered else None
        return Alarm(self._images, now, most.name, most.since, began_s, evidence)

    def _evidence(self) -> float:
        """The largest of any kind, over their number: each has the same part of alpha."""
        return max(watched.evidence for watched in self._watched.values()) / len(self._watched)

    def _needed(self) -> float:
        return 1.0 / (self.alpha * share_of_alpha(self._stretch))
