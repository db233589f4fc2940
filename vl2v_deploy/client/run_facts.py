"""What manifest.json says of the run that a bundle was exported from: its teacher and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.client.typed_json import LEFT_OUT


@dataclass(frozen=True)
class Terms:
    """What a vendor's terms of use permit, as the user who distilled read them.

    read_on: day, as 2026-11-28
    permits: "internal", or "distribution"
    """

    url: str
    read_on: str
    permits: str


@dataclass(frozen=True)
class TeacherFacts:
    """Whom the student was distilled from.

    images:  that it was asked about
    views:   of each, or "online"
    queries: that were paid for
    terms:   of the vendor that it was bought from
    """

    identity: str
    images: int | None = field(default=None, metadata=LEFT_OUT)
    views: int | str | None = field(default=None, metadata=LEFT_OUT)
    queries: int | None = field(default=None, metadata=LEFT_OUT)
    terms: Terms | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class CopyFacts:
    """Images of the run that are copies of others; names are relative to the data's root.

    images:     how many have bytes that another one has, too
    allowed:    whether two_labels and held_out were used all the same; else they were left out
    near:       training images that show the same picture as a held-out one, or nearly so
    two_labels: images whose copy is of another class
    held_out:   images of the sources whose copy was held out
    """

    images: int
    allowed: bool
    near: int
    two_labels: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class UnlabelledFacts:
    """Images without labels that the run was trained on.

    of_target: of them, images of the target domain
    """

    images: int
    of_target: int


@dataclass(frozen=True)
class DataFacts:
    """The images of the run: of each domain, how many are in each split and how many were evaluated."""

    fingerprint: str
    images: Mapping[str, Mapping[str, int]] | None = field(default=None, metadata=LEFT_OUT)
    evaluated: Mapping[str, int] | None = field(default=None, metadata=LEFT_OUT)
    skipped: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT)
    copies: CopyFacts | None = field(default=None, metadata=LEFT_OUT)
    unlabelled: UnlabelledFacts | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class RunFacts:
    """The run that the bundle was exported from.

    seconds:   of each part of it
    selection: the images on which weights were selected, source_val or the target's; None in older bundles
    """

    recipe_sha256: str
    seed: int
    teacher: TeacherFacts
    data: DataFacts
    seconds: Mapping[str, float]
    selection: str | None = field(default=None, metadata=LEFT_OUT)

    @property
    def target_role(self) -> str:
        """What a table calls the target: out of distribution, unless the run has seen it in some way."""
        return self.target_words.role

    @property
    def target_words(self) -> TargetWords:
        """What the target and accuracy on it are called."""
        unlabelled = self.data.unlabelled
        return TargetWords(unlabelled is not None and unlabelled.of_target > 0, self.is_oracle)

    @property
    def is_oracle(self) -> bool:
        """Whether weights were selected on labels of the target, which no honest result may use."""
        return self.selection not in (None, "source_val")
