"""What run.json says of the teacher: what it was asked, and whether it reads the prompts."""

from __future__ import annotations

from typing import Literal

from vl2v_deploy.models.record_parts.part import RecordPart
from vl2v_deploy.recipe import TermsRecipe


class TrainingEmbeddings(RecordPart):
    """The training images of a run whose teacher embeddings it used; the others had the text term alone.

    images:   that it was trained on
    embedded: of them, those with an embedding
    sha256:   over the contents of the embedded ones: which they were
    """

    images: int
    embedded: int
    sha256: str


class TeacherFacts(RecordPart):
    """What a run asked of its teacher.

    images:   whose embeddings it used, from the store or bought
    views:    the recipe's teacher_views
    queries:  images that were sent to the teacher, over all restarts; of a vendor as its ledger has it, paid
              or possibly paid, without canaries
    training: None where the method uses no embeddings of training images, and in older records
    terms:    what the vendor's terms of use permit, as the recipe says; None for a teacher that has none
    """

    later = frozenset({"training", "terms"})

    identity: str
    images: int
    views: int | Literal["online"]
    queries: int
    training: TrainingEmbeddings | None = None
    terms: TermsRecipe | None = None


class PromptFacts(RecordPart):
    """Whether the teacher reads the texts of the classes to their end.

    texts:     how many distinct ones there are
    cut:       those with more tokens than it takes
    unchecked: why it is not known which they are; None where it is
    """

    texts: int
    cut: tuple[str, ...]
    unchecked: str | None = None
