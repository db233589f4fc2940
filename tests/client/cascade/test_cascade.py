"""The whole of a cascade: who answers and why, whatever the teacher, the budget or the callers do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.cascades import CLASSES, DOG, OWL, SURE, UNSURE, ScriptedTeacher, TextStudent, answered_by
from vl2v_deploy.client import Cascade, CascadePolicy, MicroBatcher
from vl2v_deploy.client.cascade import asking
from vl2v_deploy.client.cascade.policy import text_of_policy
from vl2v_deploy.errors import ClosedError, ImageError, TeacherError, UnknownRequest

PATIENCE_S = 60.0  # nothing waits this long unless something is broken
POLICY = CascadePolicy("max_probability", 0.3, "teacher", 0.5, 1.0, 0.2)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("vl2v-")] == []


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of breaker and deadline."""
    clock = [1000.0]
    monkeypatch.setattr(asking, "monotonic", lambda: clock[0])
    return clock


def make(teacher: Any, **options: Any) -> Cascade:
    options = {"threshold": 0.3, "timeout_s": PATIENCE_S} | options
    return Cascade(TextStudent(), teacher, **options)  # type: ignore[arg-type]


def until(reached: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end_s, "never came true"
        time.sleep(0.001)


def test_the_teacher_is_asked_where_the_student_is_unsure_and_only_there() -> None:
    teacher = ScriptedTeacher(DOG)
    with make(teacher, usd_per_query=0.5) as cascade:
        sure, unsure = cascade.predict(SURE, top=2), cascade.predict(UNSURE, top=2)
    assert (sure.label, sure.by, sure.reason, sure.teacher, sure.cost_usd) == (
        *("cat", "student", "confident"),
        *(None, 0.0),
    )
    assert (unsure.label, unsure.by, unsure.reason, unsure.cost_usd) == ("dog", "teacher", "unsure", 0.5)
    assert unsure.teacher is not None
    assert (unsure.student.label, unsure.teacher.label, unsure.index) == ("cat", "dog", 1)
    assert unsure.top == (("dog", 0.8), ("cat", 0.1)) and len(sure.top) == 2
    assert teacher.calls == [[UNSURE]]
    assert sure.request_id != unsure.request_id


@pytest.mark.parametrize(
    ("combine", "teacher", "by", "label"),
    [
        ("more_confident", (0.34, 0.33, 0.33), "student", "cat"),
        ("more_confident", DOG, "teacher", "dog"),
        ("mixed", DOG, "joined", "dog"),
        ("mixed", (0.34, 0.36, 0.3), "joined", "cat"),
    ],
)
def test_answers_are_joined_as_the_policy_says(combine: Any, teacher: Any, by: str, label: str) -> None:
    with make(ScriptedTeacher(teacher), threshold=None, policy=replace(POLICY, combine=combine)) as cascade:
        found = cascade.predict(UNSURE)
    assert (found.by, found.label, found.reason) == (by, label, "unsure")
    if by == "joined":
        expected = 0.5 * np.array([0.4, 0.35, 0.25]) + 0.5 * np.array(teacher)
        assert found.probability == pytest.approx(expected.max(), abs=1e-6)


def test_the_policys_temperature_and_abstention_are_of_the_answer_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "cascade.json"
    file.write_text(text_of_policy(replace(POLICY, teacher_temperature=4.0)))
    with make(ScriptedTeacher(OWL), policy=file, threshold=None) as cascade:
        found = cascade.predict(UNSURE)
    powers = np.array(OWL) ** 0.25
    assert found.probability == pytest.approx((powers / powers.sum())[2])
    assert found.abstained is (found.probability < 0.5)
    assert found.student.abstained


def test_some_classes_and_images_are_never_asked_about() -> None:
    teacher = ScriptedTeacher()
    with make(teacher, never=["cat"], audit_rate=1.0) as cascade:
        assert cascade.predict(UNSURE).reason == "never"
        assert cascade.predict(b"0.3,0.4,0.3", ask=False).reason == "never"
        assert cascade.predict(b"0.3,0.4,0.3").reason == "unsure"
    assert len(teacher.images) == 1


def test_a_share_is_kept() -> None:
    rng = np.random.default_rng(0)
    images = [",".join(map(str, row)).encode() for row in rng.dirichlet((4, 1, 1), size=2000)]
    teacher = ScriptedTeacher()
    with make(teacher, threshold=None, share=0.1, seed=1) as cascade:
        found = cascade.predict_batch(images)
        said = cascade.summary()
    assert abs(said.share_escalated - 0.1) < 0.02
    assert said.escalated == said.queries == len(teacher.images) == sum(one.by == "teacher" for one in found)
    asked = [one.student.probability for one in found[1000:] if one.reason == "unsure"]
    left = [one.student.probability for one in found[1000:] if one.reason == "confident"]
    assert np.mean(asked) < np.mean(left) and max(asked) < np.quantile(left, 0.1)


def test_batches_threads_and_asyncio_get_their_own_answers() -> None:
    rows = np.random.default_rng(0).dirichlet((1, 1, 1), size=120)
    images = [",".join(map(str, row)).encode() for row in rows]
    teacher = answered_by(lambda image: TextStudent().pixels(image)[::-1] / TextStudent().pixels(image).sum())

    async def ask_all(cascade: Cascade) -> list[Any]:
        return await asyncio.gather(*(cascade.predict_async(image) for image in images))

    def check(found: list[Any]) -> None:
        for one, row in zip(found, rows, strict=True):
            asked = 1 - row.max() > 0.3
            assert one.reason == ("unsure" if asked else "confident")
            assert one.index == (2 - row.argmax() if asked else row.argmax())

    with (
        MicroBatcher(TextStudent(), max_queue=500) as batcher,  # type: ignore[arg-type]
        Cascade(batcher, teacher, threshold=0.3, timeout_s=PATIENCE_S) as on_batcher,
        make(teacher) as alone,
        ThreadPoolExecutor(16) as callers,
    ):
        for cascade in (on_batcher, alone):
            check(cascade.predict_batch(images))
            check(list(callers.map(cascade.predict, images)))
            check(asyncio.run(ask_all(cascade)))
            assert cascade.summary().images == 360
        assert batcher.statistics.answered == 360  # batches too
        with pytest.raises(ValueError, match="batch_size, workers: a MicroBatcher"):
            on_batcher.predict_batch(images, batch_size=8)
    assert asyncio.run(_closed_by_async_with(teacher)) == "unsure"


async def _closed_by_async_with(teacher: Any) -> str:
    async with make(teacher) as cascade:
        return (await cascade.predict_async(UNSURE)).reason


def test_a_teacher_that_fails_costs_one_call_an_interval(now_s: list[float]) -> None:
    teacher = ScriptedTeacher()
    teacher.fault = RuntimeError("it is down")
    with make(teacher, min_interval_s=10.0, usd_per_query=1.0) as cascade:
        first = cascade.predict(UNSURE)
        assert (first.label, first.by, first.reason, first.cost_usd) == (
            "cat",
            "student",
            "teacher_error",
            1.0,
        )
        assert first.problem == "RuntimeError: it is down"
        later = [cascade.predict(UNSURE) for _ in range(50)]
        assert {one.reason for one in later} == {"breaker_open"} and {one.cost_usd for one in later} == {0.0}
        assert {one.problem for one in later} == {first.problem}
        assert len(teacher.calls) == 1
        now_s[0] += 10.0
        assert cascade.predict(UNSURE).reason == "teacher_error"
        teacher.fault = None
        assert cascade.predict(UNSURE).reason == "breaker_open"
        now_s[0] += 10.0
        assert [cascade.predict(UNSURE).reason for _ in range(3)] == ["unsure"] * 3
        assert cascade.summary().spent_usd == 5.0
        assert cascade.summary().reasons == {"teacher_error": 2, "breaker_open": 51, "unsure": 3}


def test_a_teacher_that_hangs_holds_nobody_up(now_s: list[float]) -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(gate=gate)
    with make(teacher, timeout_s=0.05, threads=1, min_interval_s=10.0) as cascade:
        slow = cascade.predict(UNSURE)
        assert (slow.label, slow.reason, "0.05 s" in str(slow.problem)) == ("cat", "slow", True)
        assert cascade.predict(UNSURE).reason in ("slow", "breaker_open")  # at once
        now_s[0] += 10.0
        until(lambda: cascade._answering.queue.is_stuck(0.05))
        assert cascade.predict(UNSURE).reason == "slow"  # its only thread is still in the call
        assert len(teacher.calls) == 1
        gate.set()
        until(lambda: cascade.summary().disagreement.asked["unsure"])  # the late answer counts all the same
        assert cascade.summary().answered_by == {"student": 3}


def test_an_image_that_waited_for_its_turn_is_no_failure_of_the_teacher() -> None:
    gates = [threading.Event(), threading.Event(), threading.Event()]
    left = iter(gates)

    def teacher(images: list[bytes]) -> Any:
        assert next(left).wait(PATIENCE_S)
        return np.tile(np.array(DOG), (len(images), 1))

    with make(teacher, timeout_s=2.0, threads=1, batch=1) as cascade, ThreadPoolExecutor(2) as callers:
        first = callers.submit(cascade.predict, UNSURE)
        until(lambda: cascade.summary().queries == 1)
        second = callers.submit(cascade.predict, UNSURE)
        time.sleep(1.5)
        gates[0].set()
        assert [first.result().reason, second.result().reason] == ["unsure", "slow"]
        assert "waited for its turn" in str(second.result().problem)
        for gate in gates[1:]:
            gate.set()
        assert cascade.predict(UNSURE).reason == "unsure"  # no breaker is open


def test_a_batch_waits_once_for_a_teacher_that_hangs() -> None:
    gate = threading.Event()
    with make(ScriptedTeacher(gate=gate), timeout_s=0.5, threads=2, batch=8) as cascade:
        started_s = time.monotonic()
        found = cascade.predict_batch([UNSURE] * 16)
        assert time.monotonic() - started_s < 16 * 0.5 / 2  # a wait for each image would be 8 s
        gate.set()
    assert {(one.by, one.label) for one in found} == {("student", "cat")}


def test_the_event_loop_is_never_blocked_by_a_teacher_that_hangs() -> None:
    gate = threading.Event()

    async def main(cascade: Cascade) -> tuple[str, int]:
        asked = asyncio.create_task(cascade.predict_async(UNSURE))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.001)
            turns += 1
        return (await asked).reason, turns

    with make(ScriptedTeacher(gate=gate), timeout_s=0.2) as cascade:
        reason, turns = asyncio.run(main(cascade))
        gate.set()
    assert (reason, turns > 5) == ("slow", True)


def test_a_caller_that_is_cancelled_before_its_turn_is_not_asked_about() -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(gate=gate)

    async def main(cascade: Cascade) -> None:
        first = asyncio.create_task(cascade.predict_async(UNSURE))
        while not teacher.calls:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(cascade.predict_async(b"0.35,0.4,0.25"))
        while not cascade.summary().waiting:
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        assert (await first).reason == "unsure"

    with make(teacher, threads=1) as cascade:
        asyncio.run(main(cascade))
    assert teacher.images == [UNSURE]


def test_too_many_that_wait_are_answered_by_the_student() -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(gate=gate)
    with make(teacher, threads=1, batch=2, max_waiting=3) as cascade, ThreadPoolExecutor(8) as callers:
        first = callers.submit(cascade.predict, UNSURE)
        assert teacher.reached.acquire(timeout=PATIENCE_S)
        waiting = [callers.submit(cascade.predict, UNSURE) for _ in range(3)]
        until(lambda: cascade.summary().waiting == 3)
        assert cascade.predict(UNSURE).reason == "busy"
        gate.set()
        assert {one.result(PATIENCE_S).reason for one in (first, *waiting)} == {"unsure"}
    assert [len(call) for call in teacher.calls] == [1, 2, 1]  # who waits is asked about together


def test_the_budget_stops_the_teacher_and_not_the_student(tmp_path: Path) -> None:
    day = ["2026-11-28"]
    limits = {"usd_per_query": 0.1, "max_usd_per_day": 0.35, "spent_file": tmp_path / "spent"}
    for restart in range(2):
        teacher = ScriptedTeacher()
        with make(teacher, batch=5, **limits) as cascade:
            cascade._answering.asker.budget._today = lambda: day[0]  # type: ignore[union-attr]
            found = cascade.predict_batch([UNSURE] * 20)
            reasons = [one.reason for one in found]
            assert reasons.count("unsure") == len(teacher.images) == (0 if restart else 3)
            assert reasons.count("budget") == (20 if restart else 17)
            assert {one.label for one in found if one.reason == "budget"} == {"cat"}
            assert "0.35" in str(found[-1].problem)
            assert cascade.summary().spent_today_usd == pytest.approx(0.3)
            if restart:
                day[0] = "2026-11-29"
                assert cascade.predict(UNSURE).reason == "unsure"


def test_what_was_certainly_not_billed_is_given_back(tmp_path: Path, now_s: list[float]) -> None:
    teacher = ScriptedTeacher()
    limits = {"usd_per_query": 1.0, "max_usd_per_day": 1.0, "spent_file": tmp_path / "spent"}
    with make(teacher, min_interval_s=1.0, **limits) as cascade:
        teacher.fault = TeacherError("connection refused", billed=False)
        found = cascade.predict(UNSURE)
        assert (found.reason, found.cost_usd, cascade.summary().spent_today_usd) == (
            "teacher_error",
            0.0,
            0.0,
        )
        now_s[0] += 1.0
        teacher.fault = ValueError("half an answer")
        assert cascade.predict(UNSURE).cost_usd == cascade.summary().spent_today_usd == 1.0
        now_s[0] += 1.0
        assert cascade.predict(UNSURE).reason == "budget"


def test_a_budget_file_that_is_lost_stops_the_teacher_and_says_so(tmp_path: Path) -> None:
    limits = {"usd_per_query": 1.0, "max_usd_per_day": 9.0, "spent_file": tmp_path / "spent"}
    teacher = ScriptedTeacher()
    with make(teacher, **limits) as cascade:
        (tmp_path / "spent").write_text("something else, which is no database at all" * 20)
        found = cascade.predict(UNSURE)
    assert (found.reason, found.by, str(tmp_path / "spent") in str(found.problem)) == (
        "budget",
        "student",
        True,
    )
    assert teacher.calls == []


def test_audits_stay_the_students_and_hold_nobody_up() -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(DOG, gate=gate)
    with make(teacher, audit_rate=0.5, seed=0, usd_per_query=1.0) as cascade:
        found = [cascade.predict(SURE) for _ in range(100)]  # while the teacher answers nothing
        audited = [one for one in found if one.reason == "audit"]
        assert {one.label for one in found} == {"cat"} and {one.by for one in found} == {"student"}
        assert 30 < len(audited) < 70 and {one.cost_usd for one in audited} == {1.0}
        gate.set()
        until(lambda: cascade.summary().disagreement.asked["confident"] == len(audited))
        differ = cascade.summary().disagreement
    assert (differ.overall.share, differ.by_class["cat"].n) == (1.0, len(audited))
    assert 0.9 < differ.overall.low < 1.0


def test_who_waits_for_an_answer_comes_before_audits() -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(gate=gate)
    with (
        make(teacher, audit_rate=1.0, threads=1, batch=1) as cascade,
        ThreadPoolExecutor(1) as callers,
    ):
        for _ in range(3):
            cascade.predict(SURE)
        until(lambda: teacher.calls)
        urgent = callers.submit(cascade.predict, UNSURE)
        until(lambda: cascade.summary().waiting == 3)
        gate.set()
        assert urgent.result(PATIENCE_S).reason == "unsure"
        assert teacher.images[:2] == [SURE, UNSURE]


def test_labels_tell_who_is_right() -> None:
    with make(ScriptedTeacher(DOG)) as cascade:
        found = [cascade.predict(image) for image in [UNSURE] * 4 + [SURE] * 4]
        for one in found[:3]:
            cascade.feedback(one.request_id, "dog")
        cascade.feedback(found[3].request_id, "owl")
        for one in found[4:]:
            cascade.feedback(one.request_id, "cat")
        named = cascade.predict(SURE, request_id="order-17")
        cascade.feedback("order-17", "dog")
        said = cascade.summary().accuracy
        assert named.request_id == "order-17" and said.labels == 9
        with pytest.raises(UnknownRequest, match="order-18"):
            cascade.feedback("order-18", "cat")
        with pytest.raises(ValueError, match="did you mean 'cat'"):
            cascade.feedback("order-17", "cta")
    assert said.by["teacher"].share == 0.75 and said.by["student"].share == 0.8
    assert said.student.share == pytest.approx((0 + 4) / 9)
    assert said.cascade.share == pytest.approx((3 + 4) / 9)
    assert said.teacher.share is None and said.teacher.high > 0.5


def test_a_teacher_that_failed_raises_where_that_is_wanted(tmp_path: Path) -> None:
    teacher = ScriptedTeacher()
    teacher.fault = RuntimeError("it is down")
    limits = {"usd_per_query": 1.0, "max_usd_per_day": 0.5, "spent_file": tmp_path / "spent"}
    with make(teacher, on_teacher_error="raise") as cascade:
        assert cascade.predict(SURE).reason == "confident"
        with pytest.raises(TeacherError, match="it is down"):
            cascade.predict(UNSURE)
        with pytest.raises(TeacherError, match="breaker_open"):
            cascade.predict(UNSURE)
        assert cascade.summary().images == 3
    with make(ScriptedTeacher(), on_teacher_error="raise", **limits) as cascade:
        assert cascade.predict(UNSURE).reason == "budget"


def test_a_batch_of_which_one_failed_is_counted_whole() -> None:
    teacher = ScriptedTeacher()
    teacher.fault = RuntimeError("it is down")
    with make(teacher, on_teacher_error="raise", batch=4, threads=1) as cascade:
        with pytest.raises(TeacherError, match="it is down"):
            cascade.predict_batch([SURE, UNSURE, UNSURE, SURE])
        said = cascade.summary()
    assert said.images == 4 and sum(said.reasons.values()) == 4


def test_a_bad_image_is_the_students_own_error_and_costs_nothing() -> None:
    teacher = ScriptedTeacher()
    with make(teacher) as cascade:
        with pytest.raises(ImageError):
            cascade.predict(b"no picture")
        assert cascade.summary().images == 0
    assert teacher.calls == []


def test_closing_answers_who_waits_and_refuses_the_rest() -> None:
    gate = threading.Event()
    teacher = ScriptedTeacher(gate=gate)
    cascade = make(teacher, threads=1, batch=1)
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(cascade.predict, UNSURE) for _ in range(3)]
        until(lambda: cascade.summary().waiting == 2)
        closing = callers.submit(cascade.close)
        until(lambda: cascade._closed)
        gate.set()
        closing.result(PATIENCE_S)
        assert [one.result(PATIENCE_S).reason for one in asked] == ["unsure"] * 3
    with pytest.raises(ClosedError):
        cascade.predict(UNSURE)
    cascade.close()


def test_closing_does_not_wait_for_ever_for_a_teacher_that_hangs() -> None:
    gate = threading.Event()
    cascade = make(ScriptedTeacher(gate=gate), threads=1, batch=1, timeout_s=0.1)
    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(cascade.predict, UNSURE) for _ in range(2)]
        started_s = time.monotonic()
        cascade.close()
        assert time.monotonic() - started_s < PATIENCE_S / 2
        assert {one.result(PATIENCE_S).by for one in asked} == {"student"}
    gate.set()
    until(lambda: not any(t.name.startswith("vl2v-") for t in threading.enumerate()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": None}, "policy=, threshold= or share="),
        ({"share": 0.1}, "one of them"),
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"never": ["cta"]}, "did you mean 'cat'"),
        ({"max_usd_per_day": 1.0}, "spent_file"),
        ({"usd_per_query": -1.0}, "usd_per_query"),
        ({"audit_rate": 2.0}, "audit_rate 2.0"),
        ({"on_teacher_error": "ignore"}, "ignore"),
        ({"threads": 0}, "threads 0"),
        ({"timeout_s": 0.0}, "timeout_s 0.0: expected above 0"),
        ({"min_interval_s": float("nan")}, "min_interval_s nan"),
        ({"remember": -1}, "remember -1"),
        ({"window": 0}, "window 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(ScriptedTeacher(), **options)


def test_the_classes_are_the_students() -> None:
    with make(ScriptedTeacher()) as cascade:
        assert cascade.classes == CLASSES


def test_an_image_that_the_teacher_does_not_take_is_no_failure_of_the_teacher(tmp_path: Path) -> None:
    gate, small = threading.Event(), b"0.35,0.4,0.25"

    def teacher(images: list[bytes]) -> Any:
        assert gate.wait(PATIENCE_S)
        if small in images:
            raise ImageError("too small for the API")
        return np.tile(np.array(DOG), (len(images), 1))

    limits = {"usd_per_query": 1.0, "max_usd_per_day": 9.0, "spent_file": tmp_path / "spent"}
    with make(teacher, threads=1, **limits) as cascade, ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(cascade.predict, UNSURE)]
        until(lambda: cascade.summary().queries == 1)
        asked += [callers.submit(cascade.predict, image) for image in (small, UNSURE, UNSURE)]
        until(lambda: cascade.summary().waiting == 3)
        gate.set()
        found = [one.result(PATIENCE_S) for one in asked]
        assert [one.reason for one in found] == ["unsure", "teacher_error", "unsure", "unsure"]
        assert (found[1].cost_usd, "too small" in str(found[1].problem)) == (0.0, True)
        said = cascade.summary()
        assert said.spent_today_usd == said.spent_usd == said.queries == 3
