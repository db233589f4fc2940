"""What the domain that a run is judged by, and accuracy on it, are called: OOD only where it is unseen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TargetWords:
    """The words of one run.

    adapted: whether it was trained on images of the target, without labels
    oracle:  whether its weights were selected on images of the target, with labels
    is_source: whether no domain was kept unseen, and held-out images of the one that there is stand in

    >>> TargetWords().accuracy, TargetWords(adapted=True).accuracy
    ('OOD accuracy', 'target accuracy')
    >>> TargetWords(oracle=True).marked
    'target accuracy (oracle: weights selected on it)'
    """

    adapted: bool = False
    oracle: bool = False
    is_source: bool = False

    @property
    def is_unseen(self) -> bool:
        return not (self.adapted or self.oracle or self.is_source)

    @property
    def role(self) -> str:
        """Beside the domain's name in a table."""
        seen = ["adapted to"] * self.adapted + ["weights selected on"] * self.oracle
        return ", ".join(["target", *(seen or ["OOD"])])

    @property
    def short(self) -> str:
        """In a heading, where all else is ID."""
        return "OOD" if self.is_unseen else "ID" if self.is_source else "target"

    @property
    def accuracy(self) -> str:
        return f"{self.short} accuracy"

    @property
    def marks(self) -> str:
        """After a figure, with a space before them; none where the target is unseen."""
        return " (adapted to the target)" * self.adapted + " (oracle: weights selected on it)" * self.oracle

    @property
    def marked(self) -> str:
        """As `accuracy`, where nothing else says what the run has seen."""
        return f"{self.accuracy}{self.marks}"

    @property
    def images(self) -> str:
        return "unseen images" if self.is_unseen else "held-out images" if self.is_source else "target images"

    def on(self, target: str) -> str:
        """Accuracy on a target of this name, as the title of an axis.

        >>> TargetWords().on("photo"), TargetWords(adapted=True).on("photo")
        ('OOD accuracy on photo', 'accuracy on photo (target, adapted to)')
        """
        is_plain = self.is_unseen or self.is_source
        return f"{self.accuracy} on {target}" if is_plain else f"accuracy on {target} ({self.role})"


def adapted_note(target: str, of_target: int, images: int) -> str:
    """What a run was adapted by: how many of its images without labels are of the target."""
    return (
        f"Adapted to the target: {of_target} of the {images} images without labels are of {target}, so its "
        "accuracy there is not that on an unseen domain."
    )


def oracle_note(target: str) -> str:
    return (
        f"Oracle: the weights were selected by their accuracy on images of {target}, with its labels, so its "
        "accuracy there is not that on an unseen domain."
    )
