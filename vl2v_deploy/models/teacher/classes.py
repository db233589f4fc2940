"""Whether a teacher's text embeddings tell classes apart: where they do not, no answer ever can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.record_parts.teacher import PromptFacts
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.names import shown

EQUAL = 1e-4  # distance of two embeddings; rounding in batches moves one by about 1e-6
NEAR_COSINE = 0.99
NAMED = 5  # pairs and texts that a message names


@runtime_checkable
class ReadsTokens(Teacher, Protocol):
    """A teacher that knows where its tokenizer cuts a text."""

    def cut_texts(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end the teacher does not read, as they have too many tokens."""
        ...


class NearClasses(NamedTuple):
    """Two classes with nearly the same text embedding."""

    one: str
    other: str
    cosine: float


def prompt_facts(teacher: Teacher, prompts: Sequence[Sequence[str]]) -> PromptFacts:
    """Which of the classes' prompts the teacher does not read to their end, or why that is not known."""
    texts = list(dict.fromkeys(text for of_class in prompts for text in of_class))
    if isinstance(teacher, ReadsTokens):
        return PromptFacts(texts=len(texts), cut=tuple(teacher.cut_texts(texts)))
    unchecked = (
        f"cannot be checked: the teacher {shown(teacher.identity)} does not tell how many tokens of a text "
        "it reads; keep prompts short"
    )
    return PromptFacts(texts=len(texts), cut=(), unchecked=unchecked)


def prompt_notices(facts: PromptFacts) -> list[str]:
    """What a user is told about the length of prompts; mostly nothing."""
    if facts.unchecked:
        return [f"Length of {facts.texts} prompt(s): {facts.unchecked}."]
    return [f"Prompts: {cut_text(facts.cut)}."] if facts.cut else []


def require_distinct(
    classes: Sequence[str], text_emb: Tensor, prompts: Sequence[Sequence[str]], cut: Sequence[str]
) -> list[NearClasses]:
    """The pairs of classes that are hard to tell apart, nearest first.

    text_emb: (K, D), L2-normalised
    prompts:  of each class
    cut:      those that the tokenizer cuts, which may be why classes are equal

    Raises ModelError that names classes whose embeddings are equal.
    """
    distance = torch.cdist(text_emb, text_emb, compute_mode="donot_use_mm_for_euclid_dist")  # (K, K)
    pairs = torch.triu_indices(len(classes), len(classes), offset=1).T.tolist()
    equal = [(one, other) for one, other in pairs if distance[one, other] < EQUAL]
    if equal:
        lines = [
            f"  {classes[one]!r} and {classes[other]!r}: {prompts[one][0]!r}, {prompts[other][0]!r}"
            for one, other in equal[:NAMED]
        ]
        more = [f"  and {len(equal) - NAMED} more"] if len(equal) > NAMED else []
        why = f"; {cut_text(cut)}" if cut else ""
        head = (
            f"prompts: {len(equal)} pair(s) of classes have the same text embedding, so that no answer can "
            f"tell them apart{why}:"
        )
        todo = "Call them otherwise in data.class_names or prompts.per_class"
        raise ModelError("\n".join([head, *lines, *more, todo]))
    near = [
        NearClasses(classes[one], classes[other], 1 - float(distance[one, other]) ** 2 / 2)
        for one, other in pairs
    ]
    return sorted((pair for pair in near if pair.cosine >= NEAR_COSINE), key=lambda pair: -pair.cosine)


def near_text(near: Sequence[NearClasses]) -> str:
    """The warning about classes that are hard to tell apart."""
    named = "; ".join(f"{one!r} and {other!r} ({cosine:.4f})" for one, other, cosine in near[:NAMED])
    more = f" and {len(near) - NAMED} more" if len(near) > NAMED else ""
    return (
        f"{len(near)} pair(s) of classes have nearly the same text embedding (cosine), so that answers will "
        f"mix them up: {named}{more}. Better words for them go into data.class_names."
    )


def cut_text(cut: Sequence[str]) -> str:
    """The warning about prompts that are too long."""
    return (
        f"the teacher does not read the end of {len(cut)} prompt(s), which have more tokens than it takes; "
        f"the first is {cut[0]!r}"
    )
