"""The cascade of a report, against an oracle that asks image by image in plain numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.cascade_measurements import STUDENT, TEACHER, cascade_measurements
from vl2v_deploy.benchmarking.answers import Answers, halves_from_logits, read_answers, write_answers
from vl2v_deploy.benchmarking.cascade.calibrate import teacher_temperature
from vl2v_deploy.benchmarking.cascade.choose import (
    DEFERRALS,
    JOININGS,
    SHARES,
    Candidate,
    candidates_of,
    chosen_rule,
)
from vl2v_deploy.benchmarking.cascade.curve import Answered, curve_of
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.judge.statistics import group_bootstrap_interval, mean_of_domains_interval
from vl2v_deploy.benchmarking.report.files import read_report, write_report
from vl2v_deploy.benchmarking.schema import (
    CascadePoint,
    CascadeResult,
    CascadeTerms,
    DomainImages,
    Measurements,
    Prices,
    Report,
    Verdict,
)
from vl2v_deploy.client.cascade.policy import CascadePolicy, ChosenFor, load_policy, text_of_policy
from vl2v_deploy.errors import BenchmarkError

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)


@pytest.fixture(scope="module")
def better() -> Measurements:
    """The teacher errs half as much; its logits are three times too large."""
    return cascade_measurements(1.2, 2.2, teacher_scale=3.0, group_size=4)


@pytest.fixture(scope="module")
def worse() -> Measurements:
    """The teacher is better in both source domains and far worse in the target."""
    return cascade_measurements({"clip art": 1.0, "photo": 1.0, "sketch": 5.0}, 2.0)


def cascade_of(report: Report) -> CascadeResult:
    assert report.results.cascade is not None
    return report.results.cascade


def about(report: Report, what: str) -> Verdict:
    [found] = [verdict for verdict in report.results.verdicts if verdict.about == what]
    return found


def softmaxed(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def oracle(m: Measurements, policy: CascadePolicy, part: str, domain: str) -> tuple[float, float]:
    """Share that is asked and accuracy, one image after the other."""
    assert m.answers is not None
    images = m.images.domains if part == "measured" else m.images.validation
    student = softmaxed(m.answers.logits[STUDENT, part, domain])  # type: ignore[index]
    temperature = policy.teacher_temperature
    teacher = softmaxed(m.answers.logits[TEACHER, part, domain].astype(float) / temperature)  # type: ignore[index]
    asked = right = 0
    for label, p, q in zip(images[domain].labels, student, teacher, strict=True):
        first, second = sorted(p)[::-1][:2]
        unsure = {
            "max_probability": 1 - first,
            "margin": 1 - (first - second),
            "entropy": -sum(x * np.log(x) for x in p if x > 0) / np.log(len(p)),
        }[policy.deferral]
        answer = p
        if unsure > policy.threshold and m.bundle.classes[int(p.argmax())] not in policy.never:
            asked += 1
            w = policy.student_weight
            answer = {
                "teacher": q,
                "more_confident": p if p.max() > q.max() else q,
                "mixed": w * p + (1 - w) * q,
            }[policy.combine]
        right += int(answer.argmax()) == label
    return asked / len(student), right / len(student)


def test_every_point_is_what_asking_image_by_image_gives(better: Measurements) -> None:
    result = cascade_of(judge(better, PRICES))
    assert [round(point.promised, 2) for point in result.points] == [round(share, 2) for share in SHARES]
    assert result.policy.combine != "teacher" or result.policy.student_weight == 0
    for point in (result.chosen, result.points[0], result.points[6], result.points[-1]):
        policy = load_policy_of(result, point)
        on_validation = [oracle(better, policy, "validation", d) for d in better.images.validation]
        assert point.promised == pytest.approx(np.mean([share for share, _ in on_validation]))
        assert point.validation_accuracy == pytest.approx(np.mean([hits for _, hits in on_validation]))
        for domain, found in point.domains.items():
            share, accuracy = oracle(better, policy, "measured", domain)
            assert (found.share, found.accuracy) == pytest.approx((share, accuracy))
            assert found.low <= accuracy <= found.high
        sources = [point.domains[name] for name in better.images.validation]
        assert point.in_domain.accuracy == pytest.approx(np.mean([one.accuracy for one in sources]))
        assert point.in_domain.share == pytest.approx(np.mean([one.share for one in sources]))


def load_policy_of(result: CascadeResult, point: CascadePoint) -> CascadePolicy:
    return CascadePolicy(**{**vars(result.policy), "threshold": point.threshold, "share": point.promised})


def test_the_ends_of_the_curve_are_student_and_joined_answers(better: Measurements) -> None:
    report = judge(better, PRICES)
    result = cascade_of(report)
    student = report.results.engines[STUDENT]
    first, last = result.points[0], result.points[-1]
    for domain, found in first.domains.items():
        alone = student.domains[domain]
        assert (found.share, found.accuracy) == (0.0, alone.accuracy)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high))  # groups respected
        assert last.domains[domain].share == 1.0
        assert result.domains[domain].teacher == report.results.engines[TEACHER].domains[domain].accuracy
    assert first.in_domain.usd_per_million == pytest.approx(student.usd_per_million)
    chosen = result.chosen.domains["sketch"]
    assert chosen.usd_per_million == pytest.approx((student.usd_per_million or 0) + 100 * chosen.share)
    shares = [point.domains["sketch"].share for point in result.points]
    assert shares == sorted(shares)


def test_the_end_of_the_curve_asks_about_images_of_probability_one() -> None:
    measured = cascade_measurements(1.2, 2.2)
    assert measured.answers is not None
    logits = dict(measured.answers.logits)
    for part, domain in (("measured", "sketch"), ("validation", "photo"), ("measured", "photo")):
        rows = logits[STUDENT, part, domain].astype(np.float32)  # type: ignore[index]
        rows[:5] = 800.0 * np.eye(rows.shape[1])[0]
        logits[STUDENT, part, domain] = halves_from_logits(rows)  # type: ignore[index]
    answers = Answers(logits)
    for engine in measured.engines:
        if engine.name == STUDENT:
            for domain in ("sketch", "photo"):
                engine.predictions[domain].labels[:5] = [0] * 5
    changed = measured.model_copy(update={"answers": answers, "answers_sha256": answers.sha256()})
    last = cascade_of(judge(changed, PRICES)).points[-1]
    assert last.threshold == 0.0 and last.promised == 1.0
    assert {found.share for found in last.domains.values()} == {1.0}


def test_a_policy_names_the_student_that_answered(better: Measurements) -> None:
    chosen = cascade_of(judge(better, PRICES)).policy.chosen_for
    assert chosen == ChosenFor("made-up", "1" * 64, "int8")
    older = better.bundle.model_copy(update={"onnx_sha256": None})
    report = judge(better.model_copy(update={"bundle": older}), PRICES)
    assert cascade_of(report).policy.chosen_for is None


def test_the_temperature_of_an_overconfident_teacher_is_found(better: Measurements) -> None:
    # 4 / 1.2^2 is the calibrated scale of such logits, and 3 x that they are
    temperature = cascade_of(judge(better, PRICES)).policy.teacher_temperature
    assert temperature == pytest.approx(3.0 * 1.2**2 / 4, rel=0.15)


def test_a_large_domain_does_not_outvote_a_small_one_about_the_temperature() -> None:
    """40 images of which the teacher is honest beside 400 of which it is far too sure."""
    rng = np.random.default_rng(0)
    held, images = {}, {}
    for domain, n, scale in (("photo", 40, 1.0), ("clip art", 400, 5.0)):
        honest = 2.0 * rng.standard_normal((n, 3))
        odds = softmaxed(honest)
        labels = [int(rng.choice(3, p=row)) for row in odds]
        names = [f"{domain}/{i}" for i in range(n)]
        held[TEACHER, "validation", domain] = halves_from_logits((scale * honest).astype(np.float32))
        images[domain] = DomainImages(role="source", of=n, names=names, labels=labels, groups=names)

    def loss(temperature: float, domain: str) -> float:
        rows = softmaxed(held[TEACHER, "validation", domain].astype(float) / temperature)
        return float(-np.log(rows[np.arange(len(rows)), images[domain].labels]).mean())

    grid = np.geomspace(0.5, 10.0, 1000)
    best = grid[np.argmin([np.mean([loss(t, domain) for domain in images]) for t in grid])]
    answers = Answers(held)  # type: ignore[arg-type]
    assert teacher_temperature(answers, TEACHER, images) == pytest.approx(best, rel=0.005)
    alone = {"clip art": images["clip art"]}
    assert teacher_temperature(answers, TEACHER, alone) > 1.2 * best  # which pooled images come near to


def test_a_better_teacher_is_worth_asking(better: Measurements) -> None:
    report = judge(better, PRICES)
    verdict = about(report, "cascade")
    assert verdict.answer == "yes" and float(verdict.numbers["low"] or 0) > 0
    result = cascade_of(report)
    assert 0.1 < result.policy.share < 0.9 and not result.domains["sketch"].falls
    assert f"{100 * result.chosen.domains['sketch'].accuracy:.1f} % OOD" in result.headline
    assert [v for v in report.results.verdicts if v.about == "cascade-domain"] == []


def test_a_teacher_that_is_worse_in_the_target_is_a_no_in_words(worse: Measurements) -> None:
    report = judge(worse, PRICES)
    result, verdict = cascade_of(report), about(report, "cascade")
    assert result.policy.share > 0  # source validation cannot know
    assert verdict.answer == "no" and result.domains["sketch"].falls
    assert "Asking lowers accuracy on sketch" in verdict.text and "the teacher is worse there" in verdict.text
    assert "lowers OOD accuracy" in result.headline


def test_a_teacher_that_is_worse_everywhere_is_never_asked() -> None:
    report = judge(cascade_measurements(30.0, 1.0), PRICES)
    result, verdict = cascade_of(report), about(report, "cascade")
    assert result.policy.share == 0 and verdict.answer == "no" and "never asked" in result.headline
    assert all(found.share == 0 for found in result.chosen.domains.values())


def test_labels_of_the_target_have_no_say_in_the_policy(better: Measurements) -> None:
    usual = text_of_policy(cascade_of(judge(better, PRICES)).policy)
    rng = np.random.default_rng(1)
    sketch = better.images.domains["sketch"]
    shuffled = sketch.model_copy(update={"labels": rng.permutation(sketch.labels).tolist()})
    images = better.images.model_copy(update={"domains": {**better.images.domains, "sketch": shuffled}})
    other = judge(better.model_copy(update={"images": images}), PRICES, CascadeTerms(min_ood_accuracy=0.9))
    assert other.results.cascade != judge(better, PRICES).results.cascade
    assert text_of_policy(cascade_of(other).policy) == usual
    # ... while those of source validation have
    photo = better.images.validation["photo"]
    wrong = photo.model_copy(update={"labels": rng.permutation(photo.labels).tolist()})
    images = better.images.model_copy(update={"validation": {**better.images.validation, "photo": wrong}})
    assert (
        text_of_policy(cascade_of(judge(better.model_copy(update={"images": images}), PRICES)).policy)
        != usual
    )


def test_classes_where_the_teacher_loses_are_left_out() -> None:
    measured = cascade_measurements(1.0, 2.0)
    assert measured.answers is not None
    logits = dict(measured.answers.logits)
    clock = measured.bundle.classes.index("clock")
    for (who, part, domain), rows in measured.answers.logits.items():
        if who != TEACHER:
            continue
        images = measured.images.domains if part == "measured" else measured.images.validation
        said = measured.answers.logits[STUDENT, part, domain].argmax(1) == clock
        told = rows.astype(np.float32)
        truth = np.array(images[domain].labels)[said]
        told[said, (truth + 1) % told.shape[1]] = 50.0  # sure of a wrong class where the student says clock
        logits[who, part, domain] = halves_from_logits(told)
    answers = Answers(logits)
    changed = measured.model_copy(update={"answers": answers, "answers_sha256": answers.sha256()})
    result = cascade_of(judge(changed, PRICES))
    assert result.policy.never == ("clock",)
    assert cascade_of(judge(measured, PRICES)).policy.never == ()
    chosen = result.chosen.domains["photo"]
    assert oracle(changed, result.policy, "measured", "photo") == pytest.approx(
        (chosen.share, chosen.accuracy)
    )


def test_a_budget_sets_the_threshold_and_is_kept_on_source_validation(better: Measurements) -> None:
    mine = judge(better, PRICES).results.engines[STUDENT].usd_per_million or 0.0
    report = judge(better, PRICES, CascadeTerms(max_usd_per_million=mine + 7.0))
    result = cascade_of(report)
    assert result.budget is not None and result.budget.most == pytest.approx(0.07)
    assert 0 < result.policy.share <= 0.07 + 1e-9
    verdict = about(report, "budget")
    spent = result.chosen.domains["sketch"].usd_per_million or 0.0
    assert verdict.numbers["usd_ood"] == spent
    assert verdict.answer == (
        "yes" if max(spent, result.chosen.in_domain.usd_per_million or 0) <= mine + 7 else "no"
    )
    none = judge(better, PRICES, CascadeTerms(max_usd_per_million=mine / 2))
    assert cascade_of(none).policy.share == 0 and about(none, "budget").answer == "no"
    assert "budget" in cascade_of(none).headline
    with pytest.raises(BenchmarkError, match="--usd-per-hour"):
        judge(better, Prices(), CascadeTerms(max_usd_per_million=1.0))


def test_a_wanted_accuracy_is_answered_with_the_fewest_queries_and_called_an_oracle(
    better: Measurements,
) -> None:
    report = judge(better, PRICES, CascadeTerms(min_ood_accuracy=0.8))
    wanted = cascade_of(report).wanted
    assert wanted is not None and wanted.point is not None
    reached = wanted.point.domains["sketch"]
    assert reached.accuracy >= 0.8
    for point in cascade_of(report).points:
        assert point.domains["sketch"].share >= reached.share or point.domains["sketch"].accuracy < 0.8
    assert "target's labels" in about(report, "wanted-accuracy").text
    out_of_reach = judge(better, PRICES, CascadeTerms(min_ood_accuracy=1.0))
    assert about(out_of_reach, "wanted-accuracy").answer == "no"
    assert cascade_of(out_of_reach).policy == cascade_of(judge(better, PRICES)).policy


def test_a_report_is_read_again_with_its_answers_and_judged_alike(
    better: Measurements, tmp_path: Path
) -> None:
    terms = CascadeTerms(min_ood_accuracy=0.8, teacher_p50_ms=180.0)
    report = judge(better, PRICES, terms)
    write_report(report, tmp_path)
    assert load_policy(tmp_path / "cascade.json") == cascade_of(report).policy
    again = read_report(tmp_path)
    assert again == report and again.measurements.answers == better.answers
    assert judge(again.measurements, again.prices, again.terms) == report
    assert "answers" not in json.loads((tmp_path / "report.json").read_text())["measurements"]


def test_answers_that_are_missing_or_of_another_report_are_noticed(
    better: Measurements, tmp_path: Path
) -> None:
    write_report(judge(better, PRICES), tmp_path)
    other = cascade_measurements(0.5).answers
    assert other is not None
    write_answers(other, tmp_path / "answers.npz")
    with pytest.raises(BenchmarkError, match="other answers"):
        read_report(tmp_path)
    (tmp_path / "answers.npz").write_bytes(b"no zip")
    with pytest.raises(BenchmarkError, match=r"answers\.npz: cannot be read"):
        read_report(tmp_path)
    (tmp_path / "answers.npz").unlink()
    without = read_report(tmp_path)  # enough for `compare`
    assert without.results == judge(better, PRICES).results
    with pytest.raises(BenchmarkError, match=r"answers\.npz"):
        judge(without.measurements, without.prices)


def test_a_report_without_a_cascade_leaves_no_files_of_an_earlier_one(
    better: Measurements, tmp_path: Path
) -> None:
    write_report(judge(better, PRICES), tmp_path)
    assert {"answers.npz", "cascade.json", "cascade.png"} <= {path.name for path in tmp_path.iterdir()}
    bare = better.model_copy(update={"answers": None, "answers_sha256": None})
    report = judge(bare, PRICES)
    assert report.results.cascade is None and not any("cascade" in v.about for v in report.results.verdicts)
    write_report(report, tmp_path)
    assert not {"answers.npz", "cascade.json", "cascade.png"} & {path.name for path in tmp_path.iterdir()}


def test_a_report_of_format_3_is_read(better: Measurements, tmp_path: Path) -> None:
    images = better.images.model_copy(update={"validation": {}})
    bare = better.model_copy(update={"answers": None, "answers_sha256": None, "images": images})
    write_report(judge(bare, PRICES), tmp_path)
    tree = json.loads((tmp_path / "report.json").read_text())
    del tree["terms"], tree["results"]["cascade"], tree["measurements"]["answers_sha256"]
    del tree["measurements"]["images"]["validation"]
    del tree["measurements"]["scenario"]["buy_validation"]
    (tmp_path / "report.json").write_text(json.dumps({**tree, "format": 3}))
    assert read_report(tmp_path) == judge(bare, PRICES)


def test_logits_keep_labels_probabilities_and_their_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = (100 + 30 * rng.standard_normal((500, 345))).astype(np.float32)
    rows[:, 7] = rows.max(1) - 1e-3  # a near tie, which plain float16 could not tell at 100
    answers = Answers({("a", "measured", "odd/:name"): halves_from_logits(rows)})
    write_answers(answers, tmp_path / "answers.npz")
    back = read_answers(tmp_path / "answers.npz", answers.sha256())
    assert back == answers and list(back.logits) == [("a", "measured", "odd/:name")]
    found = back.probabilities("a", "measured", "odd/:name")
    assert (found.argmax(1) == rows.argmax(1)).all()
    np.testing.assert_allclose(found, softmaxed(rows), atol=2e-4)


def test_a_curve_runs_from_student_to_joined_and_equals_are_asked_together() -> None:
    labels = np.zeros(4, int)
    student = np.array([[0.4, 0.6], [0.6, 0.4], [0.6, 0.4], [0.9, 0.1]])
    teacher = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.8, 0.2]])
    one = Answered(labels, list("abcd"), student, teacher)
    curve = curve_of({"x": one}, "max_probability", "teacher", 0.0)
    # the first three are all 0.4 unsure: one step; the teacher wins one of them and loses one
    assert curve.share.tolist() == [0.0, 0.75, 1.0]
    assert curve.accuracy.tolist() == [0.75, 0.75, 0.75]
    assert curve.threshold.tolist() == pytest.approx([1.0, 0.25, 0.0])
    # each domain counts the same, whatever its size
    both = curve_of(
        {"x": one, "y": Answered(labels[:1], ["e"], student[3:], teacher[3:])}, "margin", "teacher", 0.0
    )
    assert both.share.tolist() == pytest.approx([0.0, 0.375, 1.0]) and both.accuracy[0] == 0.875


def test_what_is_usual_is_left_only_for_a_gain_beyond_noise() -> None:
    def chosen(**areas: float) -> tuple[str, str]:
        made = [
            Candidate(deferral, combine, weight, areas.get(f"{deferral}_{combine}", areas.get(combine, 0.8)))
            for deferral in DEFERRALS
            for combine, weight in JOININGS
        ]
        found = chosen_rule(made)
        return found.deferral, found.combine

    assert chosen() == ("max_probability", "mixed")
    assert chosen(teacher=0.804, margin_mixed=0.804) == ("max_probability", "mixed")
    assert chosen(teacher=0.81) == ("max_probability", "teacher")
    assert chosen(teacher=0.81, entropy_teacher=0.82) == ("entropy", "teacher")
    assert chosen(margin_mixed=0.81) == ("margin", "mixed")


def test_rules_are_compared_by_area_on_source_validation(better: Measurements) -> None:
    result = cascade_of(judge(better, PRICES))
    assert len(result.rules) == len(DEFERRALS) * len(JOININGS)
    areas = [rule.area for rule in result.rules]
    assert areas == sorted(areas, reverse=True)
    assert candidates_of({"x": Answered(np.zeros(3, int), list("abc"), *[np.full((3, 2), 0.5)] * 2)})[0][
        :2
    ] == (
        DEFERRALS[0],
        JOININGS[0][0],
    )


def test_the_mean_of_domains_has_the_interval_of_the_groups_that_span_them() -> None:
    rng = np.random.default_rng(0)
    luck = rng.random(100) < 0.7  # of each group, the same in both domains
    groups = [str(number) for number in range(100)]
    mean, low, high = mean_of_domains_interval([luck, luck], [groups, groups])
    assert mean == luck.mean()
    assert (low, high) == pytest.approx(group_bootstrap_interval(luck, groups), abs=0.02)
    _, apart_low, apart_high = mean_of_domains_interval([luck, luck], [groups, [f"b{g}" for g in groups]])
    assert apart_high - apart_low == pytest.approx((high - low) / 2**0.5)
    assert mean_of_domains_interval([np.ones(9, bool)], [groups[:9]])[1] < 0.75
