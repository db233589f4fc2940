"""One engine while it is measured: how it is started, and its measurement as far as it got."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vl2v_deploy.benchmarking.engine_names import TEACHER, EngineName
from vl2v_deploy.benchmarking.measure.processes import MEMORY, EngineSpec
from vl2v_deploy.benchmarking.measure.rounds import Timed
from vl2v_deploy.benchmarking.schema import EngineMeasurement, Predictions, ProcessFacts
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.errors import BenchmarkError


@dataclass
class Subject:
    """An engine to measure.

    device:   cpu or cuda: what it computes on
    settings: for its worker, without threads and images
    file:     the artifact it runs; None where there is none
    found:    what was measured so far
    """

    device: str
    settings: dict[str, Any]
    file: Path | None
    found: EngineMeasurement

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def goes_on(self) -> bool:
        """Whether it can run here and has not failed."""
        return self.found.status == "measured"

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A BenchmarkError inside ends this engine; what was measured before stays."""
        try:
            yield
        except BenchmarkError as error:
            self.fail(str(error))

    def fail(self, reason: str) -> None:
        self.found.status, self.found.reason = "failed", reason

    def spec(self, threads: int, images: Sequence[str]) -> EngineSpec:
        """Its worker with that many threads; `images` are those it is timed on."""
        return EngineSpec(self.name, {**self.settings, "threads": threads, "images": list(images)})

    def add(self, timed: Timed) -> None:
        """The times of one worker process, complete or not."""
        if timed.facts:
            self.remember(timed.facts)
            self.found.cells += timed.measured()
        if timed.failure:
            self.fail(timed.failure)

    def remember(self, facts: dict[str, Any]) -> None:
        """A worker's facts; of two with as many threads, the first one's load time and the greater memory."""
        found, threads = self.found, int(facts["threads"])
        found.model_bytes = found.model_bytes or facts.get("model_bytes")
        before = next((process for process in found.processes if process.threads == threads), None)
        now = ProcessFacts.model_validate({name: facts.get(name) for name in ProcessFacts.model_fields})
        if before is None:
            found.processes.append(now)
            return
        peaks = {name: _most(getattr(now, name), getattr(before, name)) for name in MEMORY}
        found.processes[found.processes.index(before)] = before.model_copy(update=peaks)


def student_subject(
    name: EngineName, file: Path | None, settings: dict[str, Any], unavailable: str | None = None
) -> Subject:
    """An engine of the student that has not been started yet.

    unavailable: why it cannot run here; None when it can
    """
    found = EngineMeasurement(
        name=str(name),
        kind="student",
        runtime=name.runtime,
        precision=name.precision,
        status="unavailable" if unavailable else "measured",
        reason=unavailable,
        file=file.name if file else None,
        sha256=sha256_of(file) if file else None,
        model_bytes=file.stat().st_size if file else None,
    )
    device = "cpu" if name.provider == "cpu" else "cuda"
    return Subject(device, {"engine": name.runtime, **settings}, file, found)


def teacher_subject(
    settings: dict[str, Any], device: str, predictions: dict[str, Predictions], reason: str | None
) -> Subject:
    """The teacher in torch, whose answers are known already.

    reason: why it cannot be timed here; None = it can
    """
    found = EngineMeasurement(
        name=TEACHER,
        kind="teacher",
        runtime="torch",
        precision="fp32",
        status="unavailable" if reason else "measured",
        reason=reason,
        predictions=predictions,
    )
    return Subject(device, {"engine": TEACHER, "device": device, **settings}, None, found)


def _most(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)
