"""Answers to every image: of engines through their workers, of the teacher from the embedding store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vl2v_deploy.benchmarking.measure.images import ClassPrompts
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.schema import Predictions
from vl2v_deploy.benchmarking.worker.contract import Top1, top1_from_logits
from vl2v_deploy.data.cache import cache_dir
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.recipe import TeacherRecipe

BATCH = 32


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
    recipe: TeacherRecipe, prompts: ClassPrompts, samples: Mapping[str, Sequence[Sample]], device: str
) -> TeacherAnswers:
    """The teacher's zero-shot answers, softmax of s * cos(I(x), T(c)).

    Embeddings come from the store that distillation filled; the missing ones are bought from the teacher.

    Raises ModelError for a teacher that cannot be had, ProviderError for a device that is not there.
    """
    # Imported here: without the teacher nothing needs torch.
    from vl2v_deploy.models.store.store import EmbeddingStore
    from vl2v_deploy.models.teacher.open_clip import load_teacher, prompt_classifier

    teacher = load_teacher(recipe, device)
    text_emb = prompt_classifier(teacher, prompts)  # (K, D)
    store = EmbeddingStore(cache_dir() / "embeddings", teacher)
    paths = [sample.path for chosen in samples.values() for sample in chosen]
    image_emb = store.embed(paths, "Teacher accuracy")  # (N, D)
    answers = top1_from_logits((teacher.logit_scale * image_emb @ text_emb.T).numpy())
    ends = np.cumsum([0, *(len(chosen) for chosen in samples.values())])
    predictions = {
        domain: _predictions(answers[start:end])
        for domain, start, end in zip(samples, ends, ends[1:], strict=False)
    }
    return TeacherAnswers(predictions, store.queries, teacher.identity)


def _predictions(answers: Sequence[Top1]) -> Predictions:
    labels = [label for label, _ in answers]
    return Predictions(labels=labels, confidence=[round(probability, 4) for _, probability in answers])
