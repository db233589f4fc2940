"""A Monitor of a made-up bundle: its window, its alarms, what it refuses and exposes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.manifests import made_up_file, made_up_manifest
from vl2v_deploy.client import BatcherStatistics, Bundle, Monitor, Prediction, Runtime
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.manifest import Confidence, FileDigest, ReferenceAnswers, ReferenceFacts
from vl2v_deploy.client.monitor.reference import FILE, load_reference, reference_of, write_reference
from vl2v_deploy.client.monitor.scores import basis_of
from vl2v_deploy.errors import BundleError, BusyError

CLASSES = ("circle", 'a "square"\\', "two\nlines")
K, D, KNOWN = len(CLASSES), 6, 300
ABSTAIN_BELOW = 0.5


def answers(
    images: int, seed: int, *, unsure: float = 1.0, moved: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of made-up images; `unsure` flattens the first, `moved` shifts the second."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, K)) * 3.0 / unsure
    embeddings = random.normal(size=(images, D)) * np.array([3, 2, 1, 1, 1, 1]) + moved
    return logits.astype(np.float32), embeddings.astype(np.float32)


def made_up_bundle(folder: Path, *, relabelled: bool = False, copies: int = 1) -> Bundle:
    """copies: groups of so many equal images in the reference."""
    basis = basis_of(answers(200, seed=100)[1])
    logits, embeddings = (np.repeat(part, copies, axis=0) for part in answers(KNOWN, seed=101))
    labels, groups = np.repeat(np.arange(KNOWN) % 2, copies), [str(n // copies) for n in range(len(logits))]
    reference = reference_of(logits, embeddings, ABSTAIN_BELOW, basis, labels, groups)
    if relabelled:
        reference = replace(reference, confidence=None, events=None)
    write_reference(folder, {"fp32": reference})
    manifest = made_up_manifest(
        classes=CLASSES,
        embedding_dim=D,
        confidence=Confidence(temperature=1.0, abstain_below=ABSTAIN_BELOW),
        precisions={"fp32": made_up_file("student.onnx"), "int8": made_up_file("student.int8.onnx")},
        files={FILE: FileDigest("", 0)},
        reference=ReferenceFacts(len(logits), {"fp32": ReferenceAnswers()}),
    )
    return Bundle(folder, manifest)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return made_up_bundle(tmp_path)


def predictions(logits: np.ndarray, precision: str = "fp32") -> list[Prediction]:
    probabilities = softmax(logits)
    runtime = Runtime("CPUExecutionProvider", precision, 1, "1", "made up")
    return [
        Prediction(
            CLASSES[row.argmax()], int(row.argmax()), float(row.max()), (), row.max() < ABSTAIN_BELOW, runtime
        )
        for row in probabilities
    ]


def test_the_window_is_that_of_the_last_images(bundle: Bundle) -> None:
    monitor = Monitor(bundle, window=32)
    logits, embeddings = answers(100, seed=1)
    for start in range(0, 100, 7):
        monitor.observe_outputs(logits[start : start + 7], embeddings[start : start + 7])
    drift = monitor.drift()
    assert (drift.images, drift.in_window, drift.reference) == (100, 32, KNOWN)
    named = {one.name: one for one in drift.statistics}
    last, known = softmax(logits[-32:]), softmax(answers(KNOWN, seed=101)[0])
    for index, name in enumerate(CLASSES):
        share, before = (last.argmax(1) == index).mean(), (known.argmax(1) == index).mean()
        one = named[f"class {name}"]
        assert (one.window, one.reference) == (pytest.approx(share), pytest.approx(before))
        assert one.distance == pytest.approx(abs(share - before))
    assert named["abstained"].window == pytest.approx((last.max(1) < ABSTAIN_BELOW).mean())
    confidence = named["confidence"]
    assert confidence.window == pytest.approx(last.max(1).mean(), abs=0.02)
    steps = np.linspace(0.0, 1.0, 2000)
    exact = max(abs((last.max(1) <= x).mean() - (known.max(1) <= x).mean()) for x in steps)
    assert exact - 0.05 < confidence.distance <= exact + 1e-9  # of bins, so never larger
    assert len(named) == K + 1 + 1 + D  # D - 1 directions hold 99 % of the variance; a distance


def test_predictions_and_outputs_are_the_same_to_it(bundle: Bundle) -> None:
    logits, embeddings = answers(80, seed=2, unsure=2.0)
    by_outputs, by_one, by_many = (Monitor(bundle, window=64) for _ in range(3))
    by_outputs.observe_outputs(logits, embeddings)
    given = predictions(logits)
    by_many.observe(iter(given), embeddings)
    for prediction, embedding in zip(given, embeddings, strict=True):
        by_one.observe(prediction, embedding)
    drifts = [monitor.drift() for monitor in (by_outputs, by_one, by_many)]
    assert drifts[0].alarm is not None and drifts[0].alarm.evidence > 100
    first = replace(drifts[0].alarm, at_s=0.0, since_s=0.0)  # when they were told differs
    for drift in drifts:
        assert drift.alarm is not None and replace(drift.alarm, at_s=0.0, since_s=0.0) == first
        assert replace(drift, alarm=None) == replace(drifts[0], alarm=None)


@pytest.mark.parametrize(
    ("changed", "statistics"),
    [
        ({"unsure": 4.0}, ("confidence", "abstained")),
        ({"moved": 3.0}, tuple(f"embedding direction {n}" for n in range(1, 9))),
    ],
)
def test_it_alarms_and_says_since_when_and_by_what(
    bundle: Bundle, changed: dict[str, float], statistics: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(bundle, window=512)
    monitor.observe_outputs(*answers(150, seed=3))
    assert monitor.drift().alarm is None and not caplog.records
    monitor.observe_outputs(*answers(150, seed=4, **changed))
    drift = monitor.drift()
    assert drift.alarm is not None and drift.alarm.statistic in statistics
    assert 150 < drift.alarm.at < 250 and abs(drift.alarm.since - 150) < 20
    assert drift.alarm.since_s is not None and drift.alarm.since_s <= drift.alarm.at_s
    assert drift.alarm.evidence >= 100 and len(caplog.records) == 1
    assert drift.alarm.statistic in str(drift)
    monitor.reset()
    assert monitor.drift().alarm is None and monitor.drift().in_window == 0
    assert monitor.drift().needed > drift.needed  # alpha that was spent stays spent
    assert monitor.drift().evidence == 0.25  # a quarter of alpha for confidence, which has begun with 1


def test_without_embeddings_the_rest_is_compared(bundle: Bundle) -> None:
    monitor = Monitor(bundle, window=256)
    monitor.observe(predictions(answers(200, seed=5, unsure=4.0)[0]))
    alarm = monitor.drift().alarm
    assert alarm is not None and alarm.statistic in ("confidence", "abstained")
    assert {one.window for one in monitor.drift().statistics if "embedding" in one.name} == {None}


def test_a_relabelled_bundle_is_watched_by_embeddings_alone(tmp_path: Path) -> None:
    monitor = Monitor(made_up_bundle(tmp_path, relabelled=True), window=256)
    with pytest.raises(ValueError, match="relabelled"):
        monitor.observe(predictions(answers(1, seed=0)[0]))
    monitor.observe_outputs(*answers(200, seed=6, unsure=4.0))
    assert monitor.drift().alarm is None
    monitor.observe_outputs(*answers(200, seed=6, moved=3.0))
    assert monitor.drift().alarm is not None
    assert all(one.name.startswith("embedding") for one in monitor.drift().statistics)


def test_what_it_cannot_compare_is_refused_and_not_counted(bundle: Bundle) -> None:
    monitor = Monitor(bundle)
    logits, embeddings = answers(2, seed=7)
    with pytest.raises(ValueError, match=r"int8 .*fp32"):
        monitor.observe(predictions(logits, "int8"))
    with pytest.raises(ValueError, match="embeddings"):
        monitor.observe(predictions(logits), embeddings[:, :-1])
    with pytest.raises(ValueError, match="class index"):
        monitor.observe_answers([K], [0.5], [False], None)
    with pytest.raises(ValueError, match="lengths"):
        monitor.observe_answers([0], [0.5, 0.5], [False], None)
    assert monitor.drift().images == 0 and "vl2v_predictions_total 0" in monitor.metrics()


@pytest.mark.parametrize("wrong", [{"window": 15}, {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": float("nan")}])
def test_settings_that_make_no_sense_are_refused(bundle: Bundle, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Monitor(bundle, **wrong)  # type: ignore[arg-type]


def test_a_logit_that_is_no_number_does_not_stop_it(bundle: Bundle) -> None:
    monitor = Monitor(bundle)
    monitor.observe_outputs(np.full((1, K), np.nan, np.float32), np.full((1, D), np.nan, np.float32))
    named = {one.name: one for one in monitor.drift().statistics}
    assert named["abstained"].window == 1.0 and named["embedding distance"].distance > 0.9


def test_a_bundle_without_reference_says_what_to_do(bundle: Bundle) -> None:
    older = replace(bundle, manifest=replace(bundle.manifest, reference=None))
    for made, precision in ((older, "fp32"), (bundle, "int8")):
        with pytest.raises(BundleError, match="export the run again"):
            Monitor(made, precision=precision)
    with pytest.raises(BundleError, match="fp16"):
        Monitor(bundle, precision="fp16")


@pytest.mark.parametrize("relabelled", [False, True])
def test_four_copies_of_each_reference_image_are_no_more_evidence_than_one(
    bundle: Bundle, tmp_path: Path, relabelled: bool
) -> None:
    (tmp_path / "copied").mkdir()
    copied = made_up_bundle(tmp_path / "copied", relabelled=relabelled, copies=4)
    one, four = load_reference(bundle, "fp32"), load_reference(copied, "fp32")
    assert "effect_embedding_fp32" not in np.load(bundle.path / FILE)
    for name in ("embedding",) if relabelled else ("embedding", "confidence", "events"):
        np.testing.assert_array_equal(getattr(four, name), 4 * getattr(one, name))
        worth, alone = four.worth(name), one.worth(name)
        assert worth is not None and alone is not None
        images = worth.sum(1)
        moves = (alone > 0).sum(1) > 1
        assert (images[moves] <= 1.15 * KNOWN).all() and np.median(images[moves]) > 0.85 * KNOWN
        np.testing.assert_array_equal(alone, getattr(one, name))
    monitor = Monitor(copied)
    monitor.observe_outputs(*answers(5, seed=8)) if not relabelled else None
    assert monitor.drift().reference == 4 * KNOWN


@pytest.mark.parametrize(
    "damage", ["missing", "unlisted", "no npz", "shape", "pickle", "effect", "effect's shape"]
)
def test_a_damaged_reference_is_refused(bundle: Bundle, damage: str) -> None:
    path = bundle.path / FILE
    arrays = dict(np.load(path))
    match damage:
        case "missing":
            path.unlink()
        case "unlisted":
            bundle = replace(bundle, manifest=replace(bundle.manifest, files={}))
        case "no npz":
            path.write_bytes(b"PK")
        case "shape":
            np.savez(path, **(arrays | {"events_fp32": arrays["events_fp32"][:-1]}))
        case "effect":
            np.savez(path, **(arrays | {"effect_confidence_fp32": np.array([0.5])}))
        case "effect's shape":
            np.savez(path, **(arrays | {"effect_confidence_fp32": np.ones(2)}))
        case "pickle":
            np.savez(path, **(arrays | {"mean": np.array([{}], dtype=object)}))  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=FILE):
        load_reference(bundle, "fp32")


def test_threads_lose_nothing(bundle: Bundle) -> None:
    monitor = Monitor(bundle, window=64)
    logits, embeddings = answers(50, seed=8)

    def watch(_: int) -> None:
        for row in range(50):
            with monitor.operations.timed():
                monitor.observe_outputs(logits[row : row + 1], embeddings[row : row + 1])
            monitor.drift()
            monitor.metrics()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns far more often than by default
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(watch, range(8)))
    finally:
        sys.setswitchinterval(before)
    drift = monitor.drift()
    assert (drift.images, drift.in_window) == (400, 64)
    classes = [one.window for one in drift.statistics if one.name.startswith("class ")]
    assert sum(share for share in classes if share is not None) == pytest.approx(1.0)
    assert "vl2v_predictions_total 400" in monitor.metrics()
    assert "vl2v_request_seconds_count 400" in monitor.metrics()


def test_prometheus_reads_the_metrics(bundle: Bundle) -> None:
    monitor = Monitor(bundle)
    monitor.observe_outputs(*answers(5, seed=9, unsure=1000.0))
    for error in (BusyError("full"), KeyError("x")):
        with pytest.raises(type(error)), monitor.operations.timed():
            raise error
    statistics = BatcherStatistics(batches=3, answered=7, refused=1, rejected=2, in_flight=4)
    text = monitor.metrics(statistics, escalated=6, spent_usd=0.125, budget_usable=False)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for f in families.values()
        for sample in f.samples
    }
    assert samples["vl2v_budget_usable",] == 0 and "vl2v_budget_usable" not in monitor.metrics()
    assert "vl2v_budget_usable 1\n" in monitor.metrics(budget_usable=True)
    assert samples["vl2v_predictions_total",] == samples["vl2v_abstained_total",] == 5
    assert samples["vl2v_errors_total", "BusyError"] == samples["vl2v_errors_total", "other"] == 1
    assert samples["vl2v_batch_images_bucket", "4"] == 0 and samples["vl2v_batch_images_bucket", "8"] == 1
    assert samples["vl2v_batch_images_bucket", "+Inf"] == samples["vl2v_batch_images_count",] == 1
    assert samples["vl2v_batch_images_sum",] == 5 and samples["vl2v_request_seconds_count",] == 0
    assert samples["vl2v_queue_images",] == 4 and samples["vl2v_queued_total", "rejected"] == 2
    assert samples["vl2v_escalated_total",] == 6 and samples["vl2v_spent_usd",] == 0.125
    drift = monitor.drift()
    assert samples["vl2v_drift_alarm",] == 0 and samples["vl2v_drift_evidence",] == drift.evidence
    assert samples["vl2v_drift_evidence_needed",] == drift.needed
    for one in drift.statistics:  # names of classes with quotes, backslashes and line ends among them
        assert samples["vl2v_drift_distance", one.name] == one.distance
    assert {family.type for family in families.values()} == {"counter", "gauge", "histogram"}
    assert "escalated" not in monitor.metrics() and "queue" not in monitor.metrics()
