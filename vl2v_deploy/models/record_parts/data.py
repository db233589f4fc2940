"""What run.json says of the run's images."""

from __future__ import annotations

from vl2v_deploy.models.record_parts.part import RecordPart


class TeacherLabels(RecordPart):
    """Images without labels that have the text term of the teacher's own label.

    precision:  the recipe's teacher_labels
    confidence: from which on the teacher's labels are right in that share of the sources' val images; None
                where they never are
    images:     how many have such a label
    """

    precision: float
    confidence: float | None
    images: int


class UnlabelledFacts(RecordPart):
    """The images without labels that a run was trained on.

    images:     how many it was trained on
    sources:    how many of each entry of data.unlabelled
    of_target:  of them, images of the target domain; with one of them the run is adapted to the target
    by_teacher: what the teacher labelled of them; None where it did not
    duplicates: files left out because another one has the same bytes
    skipped:    files left out because they do not decode
    """

    images: int
    sources: dict[str, int]
    of_target: int
    fingerprint: str
    duplicates: int
    skipped: tuple[str, ...]
    by_teacher: TeacherLabels | None = None


class HeldOutFacts(RecordPart):
    """The images without labels that a run held out from training.

    of_target: of them, images of the target domain
    """

    images: int
    of_target: int
    fingerprint: str


class CopyFacts(RecordPart):
    """Images of a run that are copies of others; names are relative to the data's root.

    images:     how many have bytes that another one has, too
    two_labels: of them, those whose copy is of another class
    held_out:   images of the sources whose copy is held out from what they are for
    allowed:    whether two_labels and held_out were used all the same; else they were left out
    near:       training images that show the same picture as a held-out one, or nearly so
    near_pairs: some of them, each with that held-out image
    """

    images: int
    two_labels: tuple[str, ...]
    held_out: tuple[str, ...]
    allowed: bool
    near: int
    near_pairs: tuple[tuple[str, str], ...]


class DataFacts(RecordPart):
    """The images of a run.

    images:    by domain and split
    evaluated: how many images of each domain accuracy was measured on
    skipped:   images that cannot be used, relative to the data's root
    unlabelled: None where it was trained on labelled images alone
    held_out:  without labels, for `RunRecord.agreement`; None where it had none
    unused:    files that are no images, relative to the data's root; None in older records
    copies:    None in older records
    classes:   how many of the classes each domain has images of; None in older records, where each has all
    """

    later = frozenset({"unlabelled", "held_out", "unused", "copies", "classes"})

    fingerprint: str
    images: dict[str, dict[str, int]]
    evaluated: dict[str, int]
    skipped: tuple[str, ...]
    unlabelled: UnlabelledFacts | None = None
    held_out: HeldOutFacts | None = None
    unused: tuple[str, ...] | None = None
    copies: CopyFacts | None = None
    classes: dict[str, int] | None = None

    @property
    def whole_fingerprint(self) -> str:
        """Of all images that the run depends on."""
        others = (self.unlabelled, self.held_out)
        return self.fingerprint + "".join(part.fingerprint for part in others if part)
