"""When a policy asks: at both ends of a share, of answers that are no numbers, and of which student."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from tests.helpers.cascades import DOG, SURE, UNSURE, ScriptedTeacher, TextStudent
from vl2v_deploy.benchmarking.cascade.curve import Answered, curve_of
from vl2v_deploy.client import Cascade, CascadePolicy, Student
from vl2v_deploy.client.archive import opened_bundle
from vl2v_deploy.client.bundle import ONNX
from vl2v_deploy.client.cascade.chosen_for import onnx_sha256_of
from vl2v_deploy.client.cascade.decision import RunningShare
from vl2v_deploy.client.cascade.policy import (
    ChosenFor,
    Combine,
    Deferral,
    asks_teacher,
    joined,
    load_policy,
    text_of_policy,
    unsureness,
)
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.errors import BundleError

BUNDLE = Path(__file__).parents[1] / "format_2/bundle.zip"
POLICY = CascadePolicy("max_probability", 0.3, "teacher", 0.5, 1.0, 0.2)
CERTAIN, NO_NUMBER = b"1,0,0", b"nan,0.5,0.5"


def make(teacher: Any, student: Any = None, **options: Any) -> Cascade:
    return Cascade(student or TextStudent(), teacher, timeout_s=60.0, **options)


@pytest.mark.parametrize("deferral", get_args(Deferral))
def test_a_share_of_one_asks_about_every_image_and_of_none_about_none(deferral: Deferral) -> None:
    """Chosen on images that are partly certain, some alike; applied to surer and unsurer ones."""
    rows = np.random.default_rng(0).dirichlet((3, 1, 1), size=50)
    rows = np.concatenate([rows, rows[:10], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]])
    labels = np.zeros(len(rows), np.int64)
    chosen_on = Answered(labels, [str(n) for n in range(len(rows))], rows, rows)
    curve = curve_of({"photo": chosen_on}, deferral, "teacher", 0.0)
    others = np.array([[1.0, 0.0, 0.0], [1 - 1e-12, 1e-12, 0.0], [1 / 3, 1 / 3, 1 / 3], [np.nan] * 3])
    for end in (0, -1):
        policy = replace(POLICY, deferral=deferral, threshold=float(curve.threshold[end]))
        assert set(asks_teacher(np.concatenate([rows, others]), policy, "abc")) == {end == -1}
    for share, threshold in zip(curve.share, curve.threshold, strict=True):  # and all between hold as ever
        policy = replace(POLICY, deferral=deferral, threshold=float(threshold))
        assert asks_teacher(rows, policy, "abc").mean() == pytest.approx(share)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"share": 1.0}])
def test_a_cascade_that_asks_about_all_asks_about_what_is_certain(options: dict[str, float]) -> None:
    with make(ScriptedTeacher(DOG), **options) as cascade:
        found = cascade.predict_batch([CERTAIN, SURE, UNSURE, CERTAIN])
    assert {(one.reason, one.by) for one in found} == {("unsure", "teacher")}


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"share": 0.0}])
def test_a_cascade_that_asks_about_none_asks_about_nothing(options: dict[str, float]) -> None:
    with make(ScriptedTeacher(), **options) as cascade:
        found = cascade.predict_batch([NO_NUMBER, UNSURE, b"1,1,1"])
    assert {one.reason for one in found} == {"confident"}


def test_a_share_of_one_does_not_depend_on_the_draw() -> None:
    rule = RunningShare(1.0, 4, lambda: 1.0 - 2.0**-53)
    assert all(rule(value) for value in (0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("deferral", get_args(Deferral))
def test_an_answer_that_is_no_number_is_wholly_unsure(deferral: Deferral) -> None:
    rows = np.array([[np.nan] * 3, [0.5, np.nan, 0.5], [0.9, 0.05, 0.05]])
    found = unsureness(rows, deferral)
    assert found[:2].tolist() == [1.0, 1.0] and found[2] < 1.0


@pytest.mark.parametrize("combine", get_args(Combine))
@pytest.mark.parametrize("share", [None, 0.5])
def test_the_teacher_answers_where_the_student_has_no_number(combine: Combine, share: float | None) -> None:
    weighted = joined(np.array([[np.nan] * 3]), np.array([DOG]), combine, 0.5)
    np.testing.assert_array_equal(weighted, [DOG])
    teacher = ScriptedTeacher(DOG)
    policy = replace(POLICY, combine=combine, threshold=0.9)
    with make(teacher, policy=policy, share=share, seed=0) as cascade:
        if share is not None:
            for _ in range(40):
                cascade.predict(SURE)
        found = cascade.predict(NO_NUMBER)
        assert (found.reason, found.by, found.label) == ("unsure", "teacher", "dog")
        assert np.isnan(found.student.probability) and found.student.abstained
        if share is not None:  # it has left the order of the others as it was
            assert cascade._answering.running_share is not None
            assert 0.3 < np.mean([cascade.predict(SURE).reason == "unsure" for _ in range(200)]) < 0.7


def test_without_the_teacher_an_answer_that_is_no_number_is_the_students() -> None:
    teacher = ScriptedTeacher()
    teacher.fault = RuntimeError("it is down")
    with make(teacher, policy=replace(POLICY, combine="mixed")) as cascade:
        found = cascade.predict(NO_NUMBER)
    assert (found.by, found.reason, found.abstained) == ("student", "teacher_error", True)


@pytest.fixture(scope="module")
def student() -> Iterator[Student]:
    with Student.load(BUNDLE, precision="int8", threads=1) as loaded:
        yield loaded


def written(folder: Path, chosen_for: ChosenFor | None) -> Path:
    file = folder / "cascade.json"
    file.write_text(text_of_policy(replace(POLICY, chosen_for=chosen_for)))
    return file


def classes_of(student: Student) -> Any:
    row = np.eye(len(student.classes))[0]
    return lambda images: np.tile(row, (len(images), 1))


def test_a_bundle_is_known_by_the_file_that_all_others_are_made_from(student: Student) -> None:
    with opened_bundle(BUNDLE) as bundle:
        assert onnx_sha256_of(student.bundle) == sha256_of(bundle.path / ONNX)
        older = replace(bundle, manifest=replace(bundle.manifest, files={}))
        assert onnx_sha256_of(older) == onnx_sha256_of(bundle)


def test_a_policy_follows_the_student_that_it_was_chosen_for(
    student: Student, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = ChosenFor("bundle", onnx_sha256_of(student.bundle), "int8")
    file = written(tmp_path, chosen)
    for policy in (file, load_policy(file)):
        with make(classes_of(student), student, policy=policy) as cascade:
            assert cascade.policy.chosen_for == chosen
            assert cascade.predict(np.zeros((64, 64, 3), np.uint8)).label in student.classes
    assert caplog.records == []


@pytest.mark.parametrize("from_file", [True, False])
def test_a_policy_of_another_student_is_refused(student: Student, tmp_path: Path, from_file: bool) -> None:
    file = written(tmp_path, ChosenFor("birds", "0" * 64, "int8"))
    with pytest.raises(BundleError) as caught:
        make(classes_of(student), student, policy=file if from_file else load_policy(file))
    for part in ("birds", "000000000000", str(BUNDLE), onnx_sha256_of(student.bundle)[:12], "--teacher"):
        assert part in str(caught.value)
    assert (str(file) in str(caught.value)) is from_file


def test_another_precision_of_the_same_student_is_told(
    student: Student, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for precision, told in (("int8-symmetric", 0), ("fp32", 1)):
        caplog.clear()
        file = written(tmp_path, ChosenFor("bundle", onnx_sha256_of(student.bundle), precision))
        with make(classes_of(student), student, policy=file):
            assert len(caplog.records) == told
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "fp32" in record.getMessage() and "int8" in record.getMessage()


def test_a_policy_of_an_earlier_version_is_followed_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = json.loads(text_of_policy(POLICY)) | {"format": 1}
    del tree["chosen_for"]
    file = tmp_path / "cascade.json"
    file.write_text(json.dumps(tree))
    with make(ScriptedTeacher(), policy=file) as cascade:
        assert cascade.predict(UNSURE).reason == "unsure"
    [record] = caplog.records
    assert str(file) in record.getMessage() and "for which student" in record.getMessage()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 3}, "format 3"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": -0.1}, "threshold"),
        ({"chosen_for": {"bundle": "a"}}, "onnx_sha256"),
        ({"chosen_for": {"bundle": "a", "onnx_sha256": "0", "precision": "int4"}}, "'int4'"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    file = tmp_path / "cascade.json"
    file.write_text(json.dumps(json.loads(text_of_policy(POLICY)) | change))
    with pytest.raises(BundleError, match=said):
        load_policy(file)


def test_a_policy_in_python_that_names_no_student_needs_no_bundle(caplog: pytest.LogCaptureFixture) -> None:
    with make(ScriptedTeacher(), SimpleStudent(), policy=POLICY):
        assert caplog.records == []


class SimpleStudent(TextStudent):
    """A student whose bundle must not be looked at."""

    @property
    def bundle(self) -> SimpleNamespace:
        raise AssertionError("nothing names a bundle")
