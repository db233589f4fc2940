"""The phases of a measurement, in order: every engine's answers, its times beside the others, its loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from vl2v_deploy.benchmarking.answers import Halves, Key
from vl2v_deploy.benchmarking.judge.speed import best_cell, cell_images_per_s
from vl2v_deploy.benchmarking.measure.answers import answer_all
from vl2v_deploy.benchmarking.measure.display import Display
from vl2v_deploy.benchmarking.measure.images import Images
from vl2v_deploy.benchmarking.measure.load_runs import expected_s, run_loads
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.measure.rounds import timed_engines
from vl2v_deploy.benchmarking.measure.subject import Subject
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.scenario import Scenario


def run_phases(
    subjects: Sequence[Subject],
    scenario: Scenario,
    images: Images,
    display: Display,
    box: TimeBox,
    logits: dict[Key, Halves],
) -> None:
    """Answers, interleaved times for each number of threads, then loads: into the subjects and `logits`."""
    with ExitStack() as running:
        loaded: Mapping[str, EngineProcess] = {}
        for threads in scenario.threads:
            running.close()  # the engines with another number of threads
            loaded = running.enter_context(_timed(subjects, scenario, threads, images, display, box, logits))
        if scenario.fresh_processes:
            running.close()
            loaded = {}
        _run_loads(subjects, scenario, images, display, box, loaded)


@contextmanager
def _timed(
    subjects: Sequence[Subject],
    scenario: Scenario,
    threads: int,
    images: Images,
    display: Display,
    box: TimeBox,
    logits: dict[Key, Halves],
) -> Iterator[Mapping[str, EngineProcess]]:
    """Predictions, where there are none yet, and interleaved times of every engine with that many threads.

    Gives the engines' processes, which end with the context.

    logits: those that come with the predictions, where a cascade needs them, are added
    """
    chosen = {subject.name: subject for subject in subjects if subject.goes_on}
    share = scenario.model_copy(update={"seconds": scenario.seconds / len(scenario.threads)})

    def answer(engine: EngineProcess) -> None:
        found = chosen[engine.name].found
        if found.predictions:
            return
        total = sum(map(len, (*images.samples.values(), *images.validation.values())))
        with display.task(f"Accuracy: {engine.name}", total) as advance:
            found.predictions, more = answer_all(engine, images, box, advance)
        logits.update(more)

    specs = [subject.spec(threads, images.timed_paths()) for subject in chosen.values()]
    with ExitStack() as running:
        with display.task(f"Timing, {threads} thread(s)", 2 * len(specs) + scenario.rounds) as advance:
            timed = running.enter_context(
                timed_engines(specs, share, lambda doing: advance(1, doing), answer)
            )
        for name, result in timed.results.items():
            chosen[name].add(result)
        yield timed.alive


def _run_loads(
    subjects: Sequence[Subject],
    scenario: Scenario,
    images: Images,
    display: Display,
    box: TimeBox,
    loaded: Mapping[str, EngineProcess],
) -> None:
    """The MLPerf-style runs, engine by engine, each in a process of its own while no other computes.

    The teacher and the fastest engines come first: a time box cuts off the others.

    loaded: processes of engines that need not be loaded again
    """
    if not (scenario.single_stream or scenario.offline or scenario.server or scenario.energy):
        return

    def teacher_then_fastest(subject: Subject) -> tuple[bool, float]:
        return subject.found.kind != "teacher", -cell_images_per_s(best_cell(subject.found.cells))

    ready = sorted((subject for subject in subjects if subject.goes_on), key=teacher_then_fastest)
    with display.task("Loads", len(ready)) as advance:
        for subject in ready:
            process = loaded.get(subject.name)
            expected = expected_s(subject, scenario, loaded=process is not None)
            if box.has_room(expected, f"loads of {subject.name}"):
                with subject.noting_failure():
                    run_loads(subject, scenario, images.timed_paths(), partial(advance, 0), process)
            advance(1)
