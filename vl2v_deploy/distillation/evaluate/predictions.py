"""The images of one run, and what each method predicts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vl2v_deploy.data.domains import DomainSet, Sample, oracle_samples
from vl2v_deploy.distillation.evaluate.probe import fit_linear_probe
from vl2v_deploy.distillation.evaluate.scores import TestSet, labels_of, test_set
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import first_does
from vl2v_deploy.distillation.sources import Sources
from vl2v_deploy.distillation.train.objectives import needs_images_of_teacher, selects_on_target
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.student import Student, predict_logits
from vl2v_deploy.recipe import Recipe


@dataclass(frozen=True)
class RunData:
    """The images of one run, and the zero-shot classifier of its prompts.

    domains:   its source domains
    train, val: of the sources
    oracle:    images of the target for a stage that selects on them; else empty
    text_emb:  (K, D) on the CPU
    """

    domain_set: DomainSet
    fingerprint: str
    domains: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    oracle: tuple[Sample, ...]
    tested: TestSet
    text_emb: Tensor


@dataclass(frozen=True)
class Logits:
    """What a method predicts; on the CPU.

    test: (M, K) of the test images; val: of the sources' val images
    """

    test: Tensor
    val: Tensor


def run_data(recipe: Recipe, sources: Sources) -> RunData:
    target = recipe.data.target
    domain_set, fingerprint = sources.data(recipe.data)
    domains = domain_set.sources(target)
    return RunData(
        domain_set=domain_set,
        fingerprint=fingerprint,
        domains=domains,
        train=domain_set.select(domains, "train"),
        val=domain_set.select(domains, "val"),
        oracle=oracle_samples(domain_set, target) if selects_on_target(recipe) else (),
        tested=test_set(domain_set, target),
        text_emb=sources.text_emb(recipe, domain_set),
    )


def linear_probe_logits(
    pretrained: Student, recipe: Recipe, sources: Sources, data: RunData
) -> tuple[nn.Linear, float, Logits]:
    """The linear probe of the pretrained backbone, its weight decay and its predictions."""
    splits = (data.train, data.val, data.tested.samples)
    train, val, test = (sources.features(pretrained, recipe, samples) for samples in splits)
    key = ("linear_probe", recipe.student, recipe.data.target, data.fingerprint)
    if key not in sources.memo:
        sources.memo[key] = _fit(train, val, data, sources)
    probe, weight_decay = sources.memo[key]
    return probe, weight_decay, Logits(probe(test), probe(val))


def teacher_probe_logits(sources: Sources, data: RunData) -> Logits:
    """A linear probe on the teacher's image embeddings (METHOD: baselines)."""
    train, val, test = (
        sources.image_emb(samples, "Teacher sees the images")
        for samples in (data.train, data.val, data.tested.samples)
    )
    probe, _ = _fit(train, val, data, sources)
    return Logits(probe(test), probe(val))


def _fit(train: Tensor, val: Tensor, data: RunData, sources: Sources) -> tuple[nn.Linear, float]:
    """The probe, fitted by the first process on its device, on the CPU."""

    def fit() -> tuple[nn.Linear, float]:
        tensors = (train, labels_of(data.train), val, labels_of(data.val))
        features, labels, val_features, val_labels = (tensor.to(sources.device) for tensor in tensors)
        classes = len(data.domain_set.classes)
        probe, weight_decay = fit_linear_probe(features, labels, val_features, val_labels, classes)
        return probe.cpu(), weight_decay

    fitted: tuple[nn.Linear, float] = first_does(sources.world, fit)
    return fitted


def teacher_logits(sources: Sources, data: RunData, samples: Sequence[Sample]) -> Tensor:
    """The zero-shot teacher on some images; (N, K)."""
    image_emb = sources.image_emb(samples, "Teacher sees the held-out images")
    return zero_shot_logits(image_emb, data.text_emb, sources.logit_scale)


def asked_of_teacher(recipe: Recipe, data: RunData) -> Iterator[tuple[Sample, bool]]:
    """The images that a run sends to the teacher, and whether it is their fixed views that it sends.

    The test images are for the comparison with the teacher; online queries are not among them.
    """
    method = recipe.method
    yield from ((sample, False) for sample in data.tested.samples)
    if method in ("zero_shot", "teacher_probe"):
        yield from ((sample, False) for sample in data.val)
    if method == "teacher_probe":
        yield from ((sample, False) for sample in data.train)
    elif needs_images_of_teacher(recipe) and recipe.teacher_views != "online":
        yield from ((sample, recipe.teacher_views > 0) for sample in data.train)


def student_logits(student: Student, recipe: Recipe, sources: Sources, data: RunData) -> Logits:
    text_emb, scale = data.text_emb.to(sources.device), sources.logit_scale
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
