"""run.json, the record of a finished run: read and written through the types below. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from vl2v_deploy.errors import RunError
from vl2v_deploy.method.reports import AveragingReport
from vl2v_deploy.recipe import METHODS, RENAMED, Method, MethodName, ProtocolName, TermsRecipe
from vl2v_deploy.recipe.problems import problems_of

RECORD = "run.json"
FORMAT: Literal[2] = 2
SOURCE_VAL: Literal["source_val"] = "source_val"
ORACLE: Literal["oracle (target)"] = "oracle (target)"

Shares = dict[str, float]  # accuracy in [0, 1] by domain


class _Part(BaseModel):
    """Frozen. Unknown keys are ignored: a later version may add some without another format.

    later: fields that came after the format, by their dotted names, written only where they say something
    """

    model_config = ConfigDict(frozen=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty_later_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = dump(self)
        for field in self.later:
            *sections, name = field.split(".")
            part = tree
            for section in sections:
                part = part[section]
            if name in part and part[name] is None:
                del part[name]
        return tree


class HandedOver(_Part):
    """The evaluated weights that Align handed over in place of the averaged ones.

    step: counted from 0; accuracy: on the sources' val split
    """

    step: int
    accuracy: float


class StageReport(_Part):
    """How a training stage went.

    seconds:     of training, without evaluations
    steps_per_s: since the last resume; None when that trained no step
    averaging:   what the weights are that it ended with, but where some were handed over
    handed_over: None where the averaged weights were
    """

    later = frozenset({"handed_over", "averaging.variant", "averaging.joined"})

    steps: int
    seconds: float
    steps_per_s: float | None
    averaging: Annotated[AveragingReport, Field(discriminator="kind")]
    handed_over: HandedOver | None = None


class ProtocolFacts(_Part):
    """In what a run departs from our defaults as the authors' code does, or does not.

    name:     authors or default where all settings are theirs or ours, else mixed
    settings: the fields in which the two differ and the method is concerned, with what was used
    """

    name: ProtocolName
    settings: dict[str, bool | int | str]


class TeacherLabels(_Part):
    """Images without labels that have the text term of the teacher's own label.

    precision:  the recipe's teacher_labels
    confidence: from which on the teacher's labels are right in that share of the sources' val images; None
                where they never are
    images:     how many have such a label
    """

    precision: float
    confidence: float | None
    images: int


class UnlabelledFacts(_Part):
    """The images without labels that a run was trained on.

    images:     how many; sources: of each entry of data.unlabelled
    of_target:  of them, images of the target domain; with one of them the run is adapted to the target
    by_teacher: what the teacher labelled of them; None where it did not
    duplicates: files left out because another one has the same bytes; skipped: because they do not decode
    """

    images: int
    sources: dict[str, int]
    of_target: int
    fingerprint: str
    duplicates: int
    skipped: tuple[str, ...]
    by_teacher: TeacherLabels | None = None


class HeldOutFacts(_Part):
    """The images without labels that a run held out from training.

    of_target: of them, images of the target domain
    """

    images: int
    of_target: int
    fingerprint: str


class CopyFacts(_Part):
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


class DataFacts(_Part):
    """The images of a run.

    images:    by domain and split
    evaluated: how many images of each domain accuracy was measured on
    skipped:   images that cannot be used, relative to the data's root
    unlabelled: None where it was trained on labelled images alone
    held_out:  without labels, for `RunRecord.agreement`; None where it had none
    unused:    files that are no images, relative to the data's root; None in older records
    copies:    None in older records
    """

    later = frozenset({"unlabelled", "held_out", "unused", "copies"})

    fingerprint: str
    images: dict[str, dict[str, int]]
    evaluated: dict[str, int]
    skipped: tuple[str, ...]
    unlabelled: UnlabelledFacts | None = None
    held_out: HeldOutFacts | None = None
    unused: tuple[str, ...] | None = None
    copies: CopyFacts | None = None

    @property
    def whole_fingerprint(self) -> str:
        """Of all images that the run depends on."""
        others = (self.unlabelled, self.held_out)
        return self.fingerprint + "".join(part.fingerprint for part in others if part)


class TrainingEmbeddings(_Part):
    """The training images of a run whose teacher embeddings it used; the others had the text term alone.

    images:   that it was trained on
    embedded: of them, those with an embedding
    sha256:   over the contents of the embedded ones: which they were
    """

    images: int
    embedded: int
    sha256: str


class TeacherFacts(_Part):
    """What a run asked of its teacher.

    images:   whose embeddings it used, from the store or bought
    views:    the recipe's teacher_views
    queries:  images that were sent to the teacher, which is what it charges for
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


class PromptFacts(_Part):
    """Whether the teacher reads the texts of the classes to their end.

    texts:     how many distinct ones there are
    cut:       those with more tokens than it takes
    unchecked: why it is not known which they are; None where it is
    """

    texts: int
    cut: tuple[str, ...]
    unchecked: str | None = None


class Accuracy(_Part):
    """Accuracy on the images that `DomainMetrics.split` names.

    student:            of what the method predicts with, also where that is the teacher
    teacher:            of the zero-shot teacher; None where its answers about the images were not all held,
                        and the recipe forbids to ask (missing_embeddings: text_term)
    linear_probe:       of a linear probe of the pretrained student
    student_source_val: on the sources' val split, its mean as the recipe's validation_mean says
    """

    target: str
    student: Shares
    teacher: dict[str, float | None]
    linear_probe: Shares
    student_source_val: float


class Agreement(_Part):
    """How far student and teacher agree on images without labels that were held out from training.

    images:     that were compared: those about which the teacher's answers were held or bought
    same_class: share of them on which both name the same class; interval: its 95 % interval (Wilson)
    cosine:     mean cosine of the student's embedding and the teacher's; None without a projector
    kl:         mean KL divergence of the student's class probabilities from the teacher's, nats
    """

    images: int
    same_class: float
    interval: tuple[float, float]
    cosine: float | None
    kl: float


class ClassMetrics(_Part):
    """accuracy: None where no image is of the class."""

    images: int
    accuracy: float | None


class DomainMetrics(_Part):
    """What the method's predictions in one domain are worth.

    split: which of the domain's images were measured
    ece:   expected calibration error in 15 bins
    """

    split: Literal["test", "out", "in", "all"]
    images: int
    accuracy: float
    macro_f1: float
    ece: float
    per_class: dict[str, ClassMetrics]


class RunRecord(_Part):
    """The whole of run.json.

    classes:   K folder names, in the order of the logits
    logit_scale: s of the zero-shot classifier
    logit_scale_images: on how many images of the sources it was fitted; None where it was given
    logit_scale_mean: the recipe's validation_mean, by which it was fitted; None where it was given, and in
               older records, where every image weighed the same
    selection: the images on which weights were selected
    stages:    by name, those that the method has
    processes: that trained it
    seconds:   by part of the run
    versions:  of the packages that can change a result
    metrics:   by domain
    prompts:   None in older records
    agreement: None where there are no images to measure it on, or no student
    protocol:  None in older records, whose validation_mean was images
    """

    later = frozenset({"logit_scale_images", "logit_scale_mean", "prompts", "agreement", "protocol"})

    format: Literal[2] = FORMAT
    recipe_sha256: str
    method: MethodName
    trial: int
    seed: int
    classes: tuple[str, ...]
    logit_scale: float
    embedding_dim: int
    selection: Literal["source_val", "oracle (target)"]
    stages: dict[str, StageReport]
    data: DataFacts
    teacher: TeacherFacts
    processes: int
    seconds: dict[str, float]
    versions: dict[str, str]
    accuracy: Accuracy
    metrics: dict[str, DomainMetrics]
    linear_probe_weight_decay: float
    logit_scale_images: int | None = None
    logit_scale_mean: Literal["domains", "images"] | None = None
    prompts: PromptFacts | None = None
    agreement: Agreement | None = None
    protocol: ProtocolFacts | None = None

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return METHODS[self.method]

    @property
    def adapted(self) -> bool:
        """Whether it was trained on images of the target domain: then the target is not unseen."""
        return self.data.unlabelled is not None and self.data.unlabelled.of_target > 0

    @property
    def target_role(self) -> str:
        """What a table calls the target: out of distribution, unless the run was adapted to it."""
        return "target, adapted to" if self.adapted else "target, OOD"

    @property
    def target(self) -> str:
        """The target domain."""
        return self.accuracy.target


def write_record(record: RunRecord, folder: Path) -> None:
    """Write run.json into a run's folder."""
    text = json.dumps(record.model_dump(mode="json"), indent=2)
    (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")


def read_record(path: Path) -> RunRecord:
    """The record of the finished run at `path`.

    Raises RunError for a directory that is missing, unfinished, holds several runs or none, or whose record
    is damaged or of another format.
    """
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory; make one with: vl2v-deploy distill RECIPE")
    if path.name.endswith(".partial"):
        raise RunError(f"{path}: is unfinished: run `vl2v-deploy distill RECIPE --resume`")
    if not (path / RECORD).is_file():
        inside = [run.name for run in finished_runs(path)]
        if inside:
            raise RunError(f"{path}: holds {len(inside)} runs, name one: {', '.join(inside)}")
        raise RunError(f"{path}: holds no {RECORD}: not a finished run of vl2v-deploy")
    try:
        tree = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RunError(f"{path / RECORD}: is damaged: {error}") from error
    return record_from_tree(tree, path / RECORD)


def record_from_tree(tree: Any, place: Path) -> RunRecord:
    """The record that parsed JSON holds.

    place: what errors call it

    Raises RunError in one line for another format or a damaged record.
    """
    found = tree.get("format") if isinstance(tree, dict) else None
    if found != FORMAT:
        raise RunError(
            f"{place}: expected format {FORMAT}, got {found!r}: made by another version of vl2v-deploy; "
            "distill the run again"
        )
    if "protocol" not in tree and tree.get("method") in RENAMED:
        tree = tree | {"method": RENAMED[tree["method"]]}
    try:
        return RunRecord.model_validate(tree)
    except ValidationError as error:
        field, problem = next(iter(problems_of(error, RunRecord).items()))
        raise RunError(f"{place}: {field}: {problem}; distill the run again") from error


def finished_runs(folder: Path) -> list[Path]:
    """Finished runs inside a folder, at any depth (method/target/trial), oldest first."""
    runs = [
        path.parent
        for path in folder.rglob(f"*/{RECORD}")
        if not any(part.endswith((".partial", ".replaced")) for part in path.relative_to(folder).parts)
    ]
    return sorted(runs, key=lambda run: (run / RECORD).stat().st_mtime)
