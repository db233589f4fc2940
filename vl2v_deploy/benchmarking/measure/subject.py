"""One engine while it is being measured: what has come of it so far, also when it failed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vl2v_deploy.benchmarking.measure.candidates import Candidate
from vl2v_deploy.benchmarking.measure.processes import MEMORY, EngineSpec
from vl2v_deploy.benchmarking.measure.rounds import Timed
from vl2v_deploy.benchmarking.schema import (
    Cell,
    Energy,
    EngineMeasurement,
    GraphWork,
    Kind,
    OfflineRun,
    Predictions,
    ProcessFacts,
    ServerRun,
    SingleStreamRun,
    Status,
)
from vl2v_deploy.client.bundle import sha256_of
from vl2v_deploy.errors import BenchmarkError


@dataclass
class Subject:
    """An engine, how to start it, and what was measured.

    device:   cpu or cuda: what it computes on
    settings: for its worker, threads and images left out; None where it cannot run here
    file:     the artifact it runs; None where there is none
    """

    name: str
    kind: Kind
    runtime: str
    precision: str
    device: str
    settings: dict[str, Any] | None
    file: Path | None = None
    reason: str | None = None
    failed: bool = False
    model_bytes: int | None = None
    processes: dict[int, ProcessFacts] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    single_stream: SingleStreamRun | None = None
    offline: OfflineRun | None = None
    server: ServerRun | None = None
    energy: Energy | None = None
    work: GraphWork | None = None

    @classmethod
    def of_student(cls, candidate: Candidate) -> Subject:
        """A student's engine that has not been started yet."""
        name = candidate.name
        settings = {"engine": name.runtime, **candidate.settings} if candidate.reason is None else None
        return cls(
            name=str(name),
            kind="student",
            runtime=name.runtime,
            precision=name.precision,
            device="cpu" if name.provider == "cpu" else "cuda",
            settings=settings,
            file=candidate.file,
            reason=candidate.reason,
            model_bytes=candidate.file.stat().st_size if candidate.file else None,
        )

    @property
    def goes_on(self) -> bool:
        """Whether there is something to measure, still."""
        return self.settings is not None and not self.failed

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """A BenchmarkError inside ends this engine; what was measured before stays."""
        try:
            yield
        except BenchmarkError as error:
            self.fail(str(error))

    def fail(self, reason: str) -> None:
        """It died, stalled or erred."""
        self.failed, self.reason = True, reason

    def spec(self, threads: int, images: Sequence[str]) -> EngineSpec:
        """Its worker with that many threads; `images` are those it is timed on."""
        assert self.settings is not None
        return EngineSpec(self.name, {**self.settings, "threads": threads, "images": list(images)})

    def add(self, timed: Timed) -> None:
        """What one worker process gave, whole or not."""
        if timed.facts:
            self.remember(timed.facts)
            self.cells += timed.cells()
        if timed.failure:
            self.fail(timed.failure)

    def remember(self, facts: dict[str, Any]) -> None:
        """The facts of a worker; of two with as many threads, the first one's load and the greater memory."""
        threads = int(facts["threads"])
        before = self.processes.get(threads)
        self.model_bytes = self.model_bytes or facts.get("model_bytes")
        peaks = {name: _most(facts.get(name), getattr(before, name, None)) for name in MEMORY}
        self.processes[threads] = ProcessFacts(
            threads=threads,
            provider=str(facts["provider"]),
            load_s=before.load_s if before else float(facts["load_s"]),
            versions=facts["versions"],
            **peaks,
        )

    def measurement(self) -> EngineMeasurement:
        """All of it, as the report has it."""
        status: Status = (
            "failed" if self.failed else "measured" if self.settings is not None else "unavailable"
        )
        return EngineMeasurement(
            name=self.name,
            kind=self.kind,
            runtime=self.runtime,
            precision=self.precision,
            status=status,
            reason=self.reason,
            file=self.file.name if self.file else None,
            sha256=sha256_of(self.file) if self.file else None,
            model_bytes=self.model_bytes,
            processes=list(self.processes.values()),
            predictions=self.predictions,
            cells=self.cells,
            single_stream=self.single_stream,
            offline=self.offline,
            server=self.server,
            energy=self.energy,
            work=self.work,
        )


def _most(*values: int | None) -> int | None:
    return max((value for value in values if value is not None), default=None)
