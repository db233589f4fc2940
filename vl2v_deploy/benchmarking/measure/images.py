"""The images that a bundle is measured on, those its run was evaluated on, and the answers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.schema import DomainImages, ImageSet, Predictions
from vl2v_deploy.benchmarking.worker.contract import Top1, top1_from_logits
from vl2v_deploy.client import Bundle
from vl2v_deploy.data.copies import near_copies
from vl2v_deploy.data.domains import DomainSet, Sample, evaluation_samples, load_domains, relocated, spread
from vl2v_deploy.data.notices import folder_notices, leak_notices
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.names import shown
from vl2v_deploy.recipe import Recipe, TeacherRecipe

# Too many for the caches of any engine, few enough to hold as tensors.
TIMED_IMAGES = 64
BATCH = 32  # images per request for accuracy
ClassPrompts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Images:
    """The images that a bundle is measured on.

    samples: of each domain, those for accuracy
    record:  the same, as the report has it
    """

    domain_set: DomainSet
    target: str
    samples: dict[str, tuple[Sample, ...]]
    record: ImageSet

    def timed_paths(self) -> list[str]:
        """The images that engines are timed on: some of every domain and class, shuffled.

        So that slow engines, which process fewer of them, see the same mix of domains.
        """
        everything = [sample for samples in self.samples.values() for sample in samples]
        chosen = [str(sample.path.resolve()) for sample in spread(everything, TIMED_IMAGES)]
        return [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]


def load_images(
    bundle: Bundle, recipe: Recipe, root: Path | None, *, skip_bad: bool, max_images: int | None
) -> Images:
    """The images of the bundle's recipe.

    root:       where they are now; None = where the recipe says
    skip_bad:   go on without images that do not decode
    max_images: the most of a domain; None = all

    Raises DataError and BadImagesError for data that cannot be used, BenchmarkError for other classes.
    """
    target = target_of(bundle, recipe)
    data = relocated(recipe.data.model_copy(update={"target": target}), root)
    domain_set = load_domains(data, skip_bad=skip_bad)
    if domain_set.classes != bundle.classes:
        raise BenchmarkError(
            f"{domain_set.root}: expected the bundle's classes {', '.join(bundle.classes)}; "
            f"got {', '.join(domain_set.classes)}; name the right images with --data"
        )
    full = {domain: evaluation_samples(domain_set, domain, target) for domain in domain_set.domains}
    samples = {domain: spread(everything, max_images) for domain, everything in full.items()}
    domains = {
        domain: DomainImages(
            role="target" if domain == target else "source",
            of=len(full[domain]),
            names=[shown(domain_set.name(sample)) for sample in chosen],
            labels=[sample.label for sample in chosen],
            groups=[shown(sample.group) for sample in chosen],
        )
        for domain, chosen in samples.items()
    }
    notices = [
        *folder_notices(domain_set),
        *leak_notices(domain_set, target, near_copies(domain_set, target)),
    ]
    record = ImageSet(
        root=data.root,
        target=target,
        domains=domains,
        skipped=list(domain_set.skipped),
        notices=notices,
    )
    return Images(domain_set, target, samples, record)


def target_of(bundle: Bundle, recipe: Recipe) -> str:
    """The domain the student has not seen: the manifest knows, as a recipe may say 'each'."""
    recorded = bundle.manifest.accuracy
    target = recorded.target if recorded else recipe.data.target
    if target == "each":
        raise BenchmarkError(
            "manifest.json: accuracy.target is missing, and data.target of recipe.yaml is 'each': "
            "which domain was unseen is not known; export the run again"
        )
    return target


def prompts_of(bundle: Bundle, recipe: Recipe, domains: Sequence[str]) -> ClassPrompts:
    """The texts of each class, as the student was distilled with them."""
    target = target_of(bundle, recipe)
    return class_prompts(recipe.prompts, recipe.data, bundle.classes, tuple(domains), target)


@dataclass(frozen=True)
class TeacherAnswers:
    """The teacher's predictions by domain, how many images had to be sent to it, and its identity."""

    predictions: dict[str, Predictions]
    queries: int
    identity: str


def predict_images(
    engine: EngineProcess, samples: Mapping[str, Sequence[Sample]], advance: Callable[[int], None]
) -> dict[str, Predictions]:
    """The engine's answer to every image, encoded file in, by domain.

    advance: called with how many more images are done

    Raises what `EngineProcess.ask` raises.
    """
    predictions = {}
    for domain, chosen in samples.items():
        labels: list[int] = []
        confidence: list[float] = []
        for start in range(0, len(chosen), BATCH):
            paths = [str(sample.path.resolve()) for sample in chosen[start : start + BATCH]]
            reply = engine.ask({"do": "predict", "images": paths}, f"answering the images of {domain}")
            labels += reply["labels"]
            confidence += reply["confidence"]
            engine.remember(reply)
            advance(len(paths))
        predictions[domain] = Predictions(labels=labels, confidence=confidence)
    return predictions


def ask_teacher(
    recipe: TeacherRecipe,
    prompts: ClassPrompts,
    logit_scale: float,
    samples: Mapping[str, Sequence[Sample]],
    device: str,
) -> TeacherAnswers:
    """The teacher's zero-shot answers, softmax of s * cos(I(x), T(c)).

    logit_scale: s, as the student was distilled with it

    Embeddings come from the store that distillation filled; the missing ones are bought from the teacher.

    Raises ModelError for a teacher that cannot be had, ProviderError for a device that is not there.
    """
    # Imported here: without the teacher nothing needs torch.
    from vl2v_deploy.models.store.store import EmbeddingStore, store_root
    from vl2v_deploy.models.teacher.load import load_teacher

    teacher = load_teacher(recipe, device)
    store = EmbeddingStore(store_root(), teacher)
    text_emb = store.prompt_classifier(prompts)  # (K, D)
    paths = [sample.path for chosen in samples.values() for sample in chosen]
    image_emb = store.embed(paths, "Teacher accuracy")  # (N, D)
    answers = top1_from_logits((logit_scale * image_emb @ text_emb.T).numpy())
    ends = np.cumsum([0, *(len(chosen) for chosen in samples.values())])
    predictions = {
        domain: _predictions(answers[start:end])
        for domain, start, end in zip(samples, ends, ends[1:], strict=False)
    }
    return TeacherAnswers(predictions, store.queries, teacher.identity)


def _predictions(answers: Sequence[Top1]) -> Predictions:
    labels = [label for label, _ in answers]
    return Predictions(labels=labels, confidence=[round(probability, 4) for _, probability in answers])
