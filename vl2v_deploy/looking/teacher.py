"""The teacher's answers about the images that are looked at: from the store, bought only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vl2v_deploy.data.domains import Sample
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.errors import MissingExtra, ModelError, ProviderError, SettingError
from vl2v_deploy.looking.answers import NOBODY, Ints, Probabilities, Subject, two_best


@dataclass(frozen=True)
class TeacherAnswers:
    """The zero-shot teacher's answers; index (N,) is NOBODY and confidence (N,) NaN where there is none.

    identity: of the teacher; None where it has answered nothing
    note:     what is missing, why, and how to get it; None = nothing is
    """

    index: Ints
    confidence: Probabilities
    identity: str | None
    note: str | None


def teacher_answers(
    subject: Subject, domains: Sequence[str], samples: Sequence[Sample], *, ask: bool
) -> TeacherAnswers:
    """The teacher's answers that the store holds; with `ask` also those that it does not hold yet.

    domains: of the data folder, by which prompts are written

    Raises, with `ask` alone, what loading and asking the teacher raise.
    """
    from vl2v_deploy.models.ledger.booking import billed_to
    from vl2v_deploy.models.store.store import EmbeddingStore, store_root
    from vl2v_deploy.models.teacher.load import load_teacher
    from vl2v_deploy.models.teacher.protocol import FileTeacher, Vendor

    try:
        teacher = load_teacher(subject.recipe.teacher)
    except (ModelError, SettingError, ProviderError, MissingExtra) as error:
        if ask:
            raise
        return _none(len(samples), f"The teacher's answers are not shown, as it cannot be loaded: {error}")
    store = EmbeddingStore(store_root(), teacher)
    recipe = subject.recipe
    prompts = class_prompts(recipe.prompts, recipe.data, subject.classes, domains, subject.target)
    note, lacking = None, set[str]()
    if not ask or isinstance(teacher, FileTeacher):
        texts = [text for of_class in prompts for text in of_class]
        if isinstance(teacher, Vendor) and store.missing_texts(texts):
            return _none(
                len(samples),
                "The teacher's answers are not shown: it has not been asked about the prompts. It is paid by "
                "the query: --ask-teacher buys prompts and images.",
            )
        lacking = {sample.sha256 for sample in store.missing(samples)}
        note = _missing(
            lacking, samples, is_file=isinstance(teacher, FileTeacher), paid=isinstance(teacher, Vendor)
        )
    held = [row for row, sample in enumerate(samples) if sample.sha256 not in lacking]
    if not held:
        return _none(len(samples), note)
    with billed_to(subject.name):
        text_emb = store.prompt_classifier(prompts)  # (K, D)
        image_emb = store.embed_samples([samples[row] for row in held], "Teacher looks at the images")
    first, sure, _, _ = two_best((subject.logit_scale * image_emb @ text_emb.T).numpy())
    answers = _none(len(samples), note)
    answers.index[held], answers.confidence[held] = first, sure
    return TeacherAnswers(answers.index, answers.confidence, teacher.identity, note)


def _missing(lacking: set[str], samples: Sequence[Sample], *, is_file: bool, paid: bool) -> str | None:
    count = sum(sample.sha256 in lacking for sample in samples)
    if not count:
        return None
    said = f"The teacher has not answered {count:,} of {len(samples):,} images"
    if is_file:
        return f"{said}: its file of embeddings does not hold them."
    price = "it is paid by the query" if paid else "it costs time alone"
    return f"{said}: --ask-teacher asks it ({price})."


def _none(count: int, note: str | None) -> TeacherAnswers:
    return TeacherAnswers(np.full(count, NOBODY), np.full(count, np.nan), None, note)
