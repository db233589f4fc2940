"""The answers of engines and teacher to the images that a bundle is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
import numpy.typing as npt

from vl2v_deploy.benchmarking.answers import Halves, Key, Part, halves_from_logits, halves_from_text
from vl2v_deploy.benchmarking.engine_names import TEACHER
from vl2v_deploy.benchmarking.measure.images import ClassPrompts, Images
from vl2v_deploy.benchmarking.measure.processes import EngineProcess
from vl2v_deploy.benchmarking.measure.time_box import TimeBox
from vl2v_deploy.benchmarking.schema import Predictions
from vl2v_deploy.benchmarking.worker.contract import Top1, top1_from_logits
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.recipe import TeacherRecipe

BATCH = 32  # images per request for accuracy


NO_CASCADE_WITHOUT_TARGET = (
    "No cascade: what asking the teacher gains is judged on a domain that was kept unseen, and there is none."
)


@dataclass(frozen=True)
class TeacherAnswers:
    """The teacher's answers.

    predictions: by domain
    queries:     how many images had to be sent to it
    identity:    names it
    logits:      the same answers, and those on source validation; empty where these were not asked for
    lacking:     source validation images without an answer; with any there are no logits
    """

    predictions: dict[str, Predictions]
    queries: int
    identity: str
    logits: dict[Key, Halves] = field(default_factory=dict)
    lacking: int = 0


def no_cascade(lacking: int) -> str:
    """Why there is no cascade, where the teacher has not answered all of source validation."""
    return (
        f"No cascade: it is chosen on source validation, and the teacher has not answered {lacking} of these "
        "images. Pass --buy-validation to send them to a vendor; a file of embeddings must hold them."
    )


def answer_all(
    engine: EngineProcess, images: Images, box: TimeBox, advance: Callable[[int], None]
) -> tuple[dict[str, Predictions], dict[Key, Halves]]:
    """The engine's answers to the measured images and, for a cascade, the logits of these and of source
    validation; no logits of validation where the time box has no room for them.

    advance: called with how many more images are done

    Raises what `EngineProcess.ask` raises.
    """
    if not images.validation:
        return predict_images(engine, images.samples, advance), {}
    started = monotonic()
    predictions, logits = answer_images(engine, images.samples, "measured", advance)
    measured, more = (sum(map(len, one.values())) for one in (images.samples, images.validation))
    if box.has_room((monotonic() - started) * more / measured, f"cascade of {engine.name}"):
        logits |= answer_images(engine, images.validation, "validation", advance)[1]
    return predictions, logits


def predict_images(
    engine: EngineProcess, samples: Mapping[str, Sequence[Sample]], advance: Callable[[int], None]
) -> dict[str, Predictions]:
    """The engine's answer to every image, encoded file in, by domain.

    advance: called with how many more images are done

    Raises what `EngineProcess.ask` raises.
    """
    return {
        domain: _answered(engine, domain, chosen, advance, logits=False)[0]
        for domain, chosen in samples.items()
    }


def answer_images(
    engine: EngineProcess, samples: Mapping[str, Sequence[Sample]], part: Part, advance: Callable[[int], None]
) -> tuple[dict[str, Predictions], dict[Key, Halves]]:
    """The same with the logits of every image, as a cascade needs them.

    part: which images these are

    Raises what `EngineProcess.ask` raises.
    """
    predictions, logits = {}, {}
    for domain, chosen in samples.items():
        predictions[domain], rows = _answered(engine, domain, chosen, advance, logits=True)
        logits[engine.name, part, domain] = np.concatenate(rows)
    return predictions, logits


def _answered(
    engine: EngineProcess,
    domain: str,
    chosen: Sequence[Sample],
    advance: Callable[[int], None],
    *,
    logits: bool,
) -> tuple[Predictions, list[Halves]]:
    labels: list[int] = []
    confidence: list[float] = []
    rows: list[Halves] = []
    for start in range(0, len(chosen), BATCH):
        paths = [str(sample.path.resolve()) for sample in chosen[start : start + BATCH]]
        request = {"do": "predict", "images": paths, "logits": logits}
        reply = engine.ask(request, f"answering the images of {domain}")
        labels += reply["labels"]
        confidence += reply["confidence"]
        if logits:
            rows.append(halves_from_text(reply["logits"], len(paths)))
        engine.remember(reply)
        advance(len(paths))
    return Predictions(labels=labels, confidence=confidence), rows


def ask_teacher(
    recipe: TeacherRecipe,
    prompts: ClassPrompts,
    logit_scale: float,
    samples: Mapping[str, Sequence[Sample]],
    device: str,
    validation: Mapping[str, Sequence[Sample]] | None = None,
    *,
    buy_validation: bool = False,
) -> TeacherAnswers:
    """The teacher's zero-shot answers, softmax of s * cos(I(x), T(c)).

    logit_scale:    s, as the student was distilled with it
    validation:     source validation images that a cascade is to be chosen on; None = no cascade
    buy_validation: send a vendor those of them that it has not answered yet

    Embeddings come from the store that distillation filled; the missing ones are bought from the teacher.
    Those of `validation` are not bought from a vendor unless asked for: `lacking` says how many they are.

    Raises ModelError for a teacher that cannot be had, ProviderError for a device that is not there.
    """
    # Imported here: without the teacher nothing needs torch.
    from vl2v_deploy.models.store.store import EmbeddingStore, store_root
    from vl2v_deploy.models.teacher.load import load_teacher
    from vl2v_deploy.models.teacher.protocol import FileTeacher, Vendor

    teacher = load_teacher(recipe, device)
    store = EmbeddingStore(store_root(), teacher)
    text_emb = store.prompt_classifier(prompts)  # (K, D)

    def logits_of(images: Mapping[str, Sequence[Sample]]) -> dict[str, npt.NDArray[np.float32]]:
        paths = [sample.path for chosen in images.values() for sample in chosen]
        rows = (logit_scale * store.embed(paths, "Teacher accuracy") @ text_emb.T).numpy()  # (N, K)
        ends = np.cumsum([len(chosen) for chosen in images.values()])[:-1]
        return dict(zip(images, np.split(rows, ends), strict=True))

    found: dict[Part, dict[str, npt.NDArray[np.float32]]] = {"measured": logits_of(samples)}
    lacking = 0
    if validation:
        # Another teacher answers on this machine, for nothing but time.
        if isinstance(teacher, FileTeacher) or (isinstance(teacher, Vendor) and not buy_validation):
            lacking = len(store.missing([sample for chosen in validation.values() for sample in chosen]))
        if not lacking:
            found["validation"] = logits_of(validation)
    return TeacherAnswers(
        predictions={name: _predictions(top1_from_logits(rows)) for name, rows in found["measured"].items()},
        queries=store.queries,
        identity=teacher.identity,
        logits={
            (TEACHER, part, domain): halves_from_logits(rows)
            for part, by_domain in found.items()
            for domain, rows in by_domain.items()
            if "validation" in found
        },
        lacking=lacking,
    )


def _predictions(answers: Sequence[Top1]) -> Predictions:
    labels = [label for label, _ in answers]
    return Predictions(labels=labels, confidence=[round(probability, 4) for _, probability in answers])
