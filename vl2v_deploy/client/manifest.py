"""manifest.json as types: what a bundle says of itself. A key is spelled once, as a field's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from vl2v_deploy.client.onnx_file import FileAccuracy, OnnxFile, Parity
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.preprocess import FULL_DECODING, PREPROCESSING
from vl2v_deploy.client.run_facts import RunFacts
from vl2v_deploy.client.typed_json import KEY, LEFT_OUT, from_json, to_json
from vl2v_deploy.errors import BundleError

FORMAT = 2
TEXT_EMBEDDINGS, TRAINED_HEAD = "text embeddings", "trained head"  # what Student.classifier may be


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of the graph; shape[0] is "batch"."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class StudentFacts:
    """classifier: "text embeddings", or "trained head" where the method trained one."""

    backbone: str
    method: str
    opset: int
    classifier: str


@dataclass(frozen=True)
class Confidence:
    """How confidence was calibrated; all of source validation, on which it was fitted.

    temperature:           T by which the graph divides its logits
    images:                of source validation; None where nothing was fitted
    ece_before, ece_after: expected calibration error with T = 1 and with T
    coverage:              share of the images that is answered
    abstain_below:         confidence under which the student abstains; None = it never does
    accuracy_of_answered:  accuracy on the images that are answered
    note:                  what a reader must know, or nothing
    validation_mean:       domains = every source domain weighs the same in all means over source validation,
                           those of each precision's accuracy among them; images = every image does. None in
                           older bundles, where every image did
    """

    temperature: float
    abstain_below: float | None
    images: int | None = None
    ece_before: float | None = None
    ece_after: float | None = None
    coverage: float | None = None
    accuracy_of_answered: float | None = None
    note: str = ""
    validation_mean: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class RunAccuracy:
    """What the run measured in torch, by domain: its student, and what the student is compared with.

    target: the domain that was unseen
    """

    target: str
    student: Mapping[str, float]
    teacher: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT)
    linear_probe: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT)
    student_source_val: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class FileDigest:
    """Of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class FileBefore:
    """What was measured through an ONNX file that a relabelling replaced."""

    sha256: str
    parity: Parity
    accuracy: FileAccuracy | None


@dataclass(frozen=True)
class Before:
    """What stays on record of the bundle that was relabelled.

    engines: names of its plan files
    """

    manifest_sha256: str
    classes: tuple[str, ...]
    accuracy: RunAccuracy | None
    confidence: Confidence
    precisions: Mapping[str, FileBefore]
    engines: tuple[str, ...]
    relabelled: Relabelled | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class RelabelCheck:
    """A relabelled file's answers to the golden samples, against the old file's and the new classifier's."""

    images: int
    max_embedding_change: float
    max_logit_error: float


@dataclass(frozen=True)
class Relabelled:
    """How a bundle came to its present classes.

    prompts: texts of each class
    teacher: identity of the teacher that gave their embeddings
    """

    prompts: Mapping[str, tuple[str, ...]]
    teacher: str
    parity: Mapping[str, RelabelCheck]
    note: str
    versions: Mapping[str, str]
    before: Before = field(metadata={KEY: "from"})


@dataclass(frozen=True)
class ReferenceAnswers:
    """How one file answers source validation. None: not known of the classes of a relabelled bundle.

    confidence_quantiles: confidence by quantile, such as "0.5"
    class_shares:         share of images that were given each class, in the order of `classes`
    abstained:            share of images on which the student abstains
    """

    confidence_quantiles: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT)
    class_shares: tuple[float, ...] | None = field(default=None, metadata=LEFT_OUT)
    abstained: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class ReferenceFacts:
    """What a Monitor compares with, in words; what it computes with is in reference.npz.

    images:     of source validation
    precisions: by precision of the file that answered
    """

    images: int
    precisions: Mapping[str, ReferenceAnswers]


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json.

    classes:        K names, in the order of the logits
    image_size_px:  S, side of the square that the graph takes
    embedding_dim:  D
    logit_scale:    s, by which the teacher's cosines are multiplied
    preprocessing:  which preprocessing the student was measured with (see client.preprocess)
    input, outputs: of the graph, by name
    precisions:     its ONNX files, by precision
    engines:        its TensorRT engines, by plan file
    accuracy, run:  of the run it was exported from; None where they are not known
    versions:       of packages, at "distill" and at "export"
    files:          every file but manifest.json and SHA256SUMS
    relabelled:     None while the classes are those of the run
    reference:      None in bundles made before there was a Monitor
    refused:        precisions that were asked for and that the student cannot have, with the reason
    """

    format: int
    classes: tuple[str, ...]
    image_size_px: int
    embedding_dim: int
    logit_scale: float
    preprocessing: str
    input: Mapping[str, TensorFacts]
    outputs: Mapping[str, TensorFacts]
    student: StudentFacts
    confidence: Confidence
    precisions: Mapping[str, OnnxFile]
    engines: Mapping[str, Passport]
    accuracy: RunAccuracy | None
    run: RunFacts | None
    versions: Mapping[str, Mapping[str, str]]
    files: Mapping[str, FileDigest]
    relabelled: Relabelled | None = field(default=None, metadata=LEFT_OUT)
    reference: ReferenceFacts | None = field(default=None, metadata=LEFT_OUT)
    refused: Mapping[str, str] | None = field(default=None, metadata=LEFT_OUT)

    @property
    def distilled_accuracy(self) -> RunAccuracy | None:
        """The run's accuracy with the classes that the student was distilled for."""
        accuracy, relabelled = self.accuracy, self.relabelled
        while relabelled:
            accuracy, relabelled = relabelled.before.accuracy, relabelled.before.relabelled
        return accuracy


def manifest_from_text(text: str, where: str) -> Manifest:
    """The manifest in manifest.json's text.

    where: what errors start with, such as the file's path

    Raises BundleError when it is not JSON, of a format or preprocessing that this version does not read, or a
    field is missing or wrong.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BundleError(f"{where}: expected a JSON object, got {type(found).__name__}")
    require_format(found.get("format"), FORMAT, where)
    try:
        manifest = from_json(Manifest, found)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BundleError(f"{where}: is not a bundle's manifest: {error}") from error
    if manifest.preprocessing not in (PREPROCESSING, FULL_DECODING):
        raise BundleError(
            f"{where}: preprocessing {manifest.preprocessing[:200]!r} is not {PREPROCESSING!r}; export again"
        )
    return manifest


def text_of_manifest(manifest: Manifest) -> str:
    """manifest.json's text."""
    return json.dumps(to_json(manifest), indent=2) + "\n"


def require_format(found: object, known: int, where: str) -> None:
    """BundleError for a file of another format than `known`, with what to do about it."""
    if found == known and type(found) is int:
        return
    newer = isinstance(found, int) and found > known
    remedy = "update vl2v-deploy" if newer else "export the run again with: vl2v-deploy export RUN"
    raise BundleError(
        f"{where}: is of format {repr(found)[:60]}, this version reads format {known}: {remedy}"
    )
