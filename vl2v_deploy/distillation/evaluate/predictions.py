"""The images of one run, and what its method predicts for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor, nn

from vl2v_deploy.data.domains import DomainSet, Sample, oracle_samples
from vl2v_deploy.data.unlabelled import Unlabelled
from vl2v_deploy.distillation.evaluate.probe import fit_linear_probe
from vl2v_deploy.distillation.evaluate.scores import TestSet, labels_of, selection_scores, test_set
from vl2v_deploy.distillation.evaluate.zero_shot import ZeroShotClassifier, fitting_samples
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import first_does
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.student import Student, predict_logits
from vl2v_deploy.recipe import (
    Recipe,
    asks_about_training_images,
    method_of,
    selects_on_target,
    teacher_labels,
)


@dataclass(frozen=True)
class RunData:
    """The images of one run.

    domains:   its source domains
    train, val: of the sources
    oracle:    images of the target for a stage that selects on them; else empty
    unlabelled: images without labels that are trained on; of_target: how many of them are of the target
    held_out:  images without labels on which agreement is measured; held_out_of_target: of the target
    """

    domain_set: DomainSet
    fingerprint: str
    domains: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    oracle: tuple[Sample, ...]
    tested: TestSet
    unlabelled: Unlabelled
    of_target: int
    held_out: Unlabelled
    held_out_of_target: int


@dataclass(frozen=True)
class Logits:
    """A method's logits; on the CPU.

    test: (M, K) of the test images; val: of the sources' val images
    """

    test: Tensor
    val: Tensor


def run_data(recipe: Recipe, sources: Sources) -> RunData:
    target = recipe.data.target
    domain_set, fingerprint = sources.data(recipe.data)
    domains = domain_set.sources(target)
    unlabelled, held_out = sources.unlabelled(recipe), sources.held_out(recipe)
    return RunData(
        domain_set=domain_set,
        fingerprint=fingerprint,
        domains=domains,
        train=domain_set.select(domains, "train"),
        val=domain_set.select(domains, "val"),
        oracle=oracle_samples(domain_set, target) if selects_on_target(recipe) else (),
        tested=test_set(domain_set, target),
        unlabelled=unlabelled,
        of_target=sources.of_target(recipe, unlabelled),
        held_out=held_out,
        held_out_of_target=sources.of_target(recipe, held_out),
    )


@dataclass(frozen=True)
class LinearProbe:
    """A linear head on the student's pretrained features.

    weight_decay: with which it was fitted
    """

    head: nn.Linear
    weight_decay: float
    logits: Logits


def linear_probe(student: Student, recipe: Recipe, sources: Sources, data: RunData) -> LinearProbe:
    """The linear probe of the student's backbone, which must not have been trained yet."""
    splits = (data.train, data.val, data.tested.samples)
    train, val, test = (sources.features.of_images(student, recipe, samples) for samples in splits)
    key = (recipe.student, recipe.data.target, data.fingerprint, recipe.validation_mean)
    if key not in sources.probes:
        sources.probes[key] = _fit(train, val, recipe, data, sources)
    head, weight_decay = sources.probes[key]
    return LinearProbe(head, weight_decay, Logits(head(test), head(val)))


@dataclass(frozen=True)
class Predictions:
    """What is compared in a run.

    method:   of the recipe's method
    teacher:  (M, K) zero-shot, of the test images
    answered: (M,) bool, the test images whose row of `teacher` is the teacher's; None = all
    probe:    of the pretrained student
    """

    method: Logits
    teacher: Tensor
    answered: Tensor | None
    probe: LinearProbe


def predictions(
    student: Student,
    probe: LinearProbe,
    recipe: Recipe,
    sources: Sources,
    data: RunData,
    classifier: ZeroShotClassifier,
    test_emb: Tensor | None,
) -> Predictions:
    """The method's predictions, and those of the teacher and the linear probe.

    student:  as training left it
    test_emb: (M, D) of the teacher, where it was asked already; None asks it
    """
    tested, answered = data.tested.samples, None
    if recipe.missing_embeddings == "text_term":
        answered = sources.held(tested, recipe, views=0)
        held = sources.held_image_emb(tested, answered, "Teacher's answers about the test images")
        teacher = zero_shot_logits(held, *classifier.of_logits)
    elif test_emb is not None:
        teacher = zero_shot_logits(test_emb, *classifier.of_logits)
    else:
        teacher = _teacher_logits(sources, classifier, tested)
    match method_of(recipe).predictor:
        case "student":
            method = _student_logits(student, recipe, sources, data, classifier)
        case "probe_of_student":
            method = probe.logits
        case "teacher":
            method = Logits(teacher, _teacher_logits(sources, classifier, data.val))
        case "probe_of_teacher":
            method = _teacher_probe_logits(recipe, sources, data)
        case other:
            assert_never(other)
    return Predictions(method, teacher, answered, probe)


def _teacher_probe_logits(recipe: Recipe, sources: Sources, data: RunData) -> Logits:
    """A linear probe on the teacher's image embeddings: the baseline of the paper's figures 1 and 3."""
    train, val, test = (
        sources.image_emb(samples, "Teacher sees the images")
        for samples in (data.train, data.val, data.tested.samples)
    )
    head, _ = _fit(train, val, recipe, data, sources)
    return Logits(head(test), head(val))


def _fit(
    train: Tensor, val: Tensor, recipe: Recipe, data: RunData, sources: Sources
) -> tuple[nn.Linear, float]:
    """The probe, fitted by the first process on its device, on the CPU."""

    def fit() -> tuple[nn.Linear, float]:
        tensors = (train, labels_of(data.train), val)
        features, labels, val_features = (tensor.to(sources.device) for tensor in tensors)

        def accuracy(logits: Tensor) -> float:
            return selection_scores(logits.cpu(), data.val, recipe)[1]

        classes = len(data.domain_set.classes)
        probe, weight_decay = fit_linear_probe(features, labels, classes, val_features, accuracy)
        return probe.cpu(), weight_decay

    fitted: tuple[nn.Linear, float] = first_does(sources.world, fit)
    return fitted


def _teacher_logits(sources: Sources, classifier: ZeroShotClassifier, samples: Sequence[Sample]) -> Tensor:
    """The zero-shot teacher on some images; (N, K)."""
    image_emb = sources.image_emb(samples, "Teacher sees the held-out images")
    return zero_shot_logits(image_emb, *classifier.of_logits)


def asked_of_teacher(recipe: Recipe, data: RunData) -> Iterator[tuple[Sample, bool]]:
    """The images that a run sends to the teacher, and whether it is their fixed views that it sends.

    The test images, and images without labels that are held out, are for the comparison with the teacher;
    some val images are for a logit scale that is fitted. Online queries are not among them. A run with
    missing_embeddings: text_term sends none of them, and uses the answers about them that are held.
    """
    yield from ((sample, False) for sample in data.tested.samples)
    yield from ((sample, False) for sample in data.held_out.samples)
    yield from ((sample, False) for sample in fitting_samples(recipe, data.val))
    match method_of(recipe).predictor:
        case "teacher":
            yield from ((sample, False) for sample in data.val)
        case "probe_of_teacher":
            yield from ((sample, False) for sample in (*data.val, *data.train))
        case "student" | "probe_of_student":
            pass
        case other:
            assert_never(other)
    if teacher_labels(recipe) is not None:
        yield from ((sample, False) for sample in data.val)
    if asks_about_training_images(recipe) and recipe.teacher_views != "online":
        yield from ((sample, recipe.teacher_views > 0) for sample in (*data.train, *data.unlabelled.samples))


def _student_logits(
    student: Student, recipe: Recipe, sources: Sources, data: RunData, classifier: ZeroShotClassifier
) -> Logits:
    text_emb, scale = classifier.text_emb.to(sources.device), classifier.scale.value
    logits = compute_batched(
        lambda images: predict_logits(student(images), text_emb, scale),
        [sample.path for sample in (*data.val, *data.tested.samples)],
        recipe.student.image_size_px,
        sources.device,
        sources.cache,
        sources.world,
        "Student on held-out images",
    )
    val, test = logits.split([len(data.val), len(data.tested.samples)])
    return Logits(test, val)
