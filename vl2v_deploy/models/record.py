"""run.json, the record of a finished run: read and written through the type below. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vl2v_deploy.client.onnx_file import without_ood
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.errors import RunError
from vl2v_deploy.models.record_parts.data import DataFacts
from vl2v_deploy.models.record_parts.measured import Accuracy, Agreement, DomainMetrics, StageReport
from vl2v_deploy.models.record_parts.part import RecordPart
from vl2v_deploy.models.record_parts.teacher import PromptFacts, TeacherFacts
from vl2v_deploy.recipe import METHODS, RENAMED, Method, MethodName, ProtocolName
from vl2v_deploy.recipe.problems import problems_of
from vl2v_deploy.regular_files import read_text

RECORD = "run.json"
FORMAT: Literal[2] = 2
SOURCE_VAL: Literal["source_val"] = "source_val"
ORACLE: Literal["oracle (target)"] = "oracle (target)"


class ProtocolFacts(RecordPart):
    """In what a run departs from our defaults as the authors' code does, or does not.

    name:     authors or default where all settings are theirs or ours, else mixed
    settings: the fields in which the two differ and the method is concerned, with what was used
    """

    name: ProtocolName
    settings: dict[str, bool | int | str]


class RunRecord(RecordPart):
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
    def is_oracle(self) -> bool:
        """Whether weights were selected on labels of the target, which no honest result may use."""
        return self.selection == ORACLE

    @property
    def target_role(self) -> str:
        """What a table calls the target: out of distribution, unless the run has seen it in some way."""
        return self.target_words.role

    @property
    def target_words(self) -> TargetWords:
        """What the target and accuracy on it are called."""
        return TargetWords(self.adapted, self.is_oracle)

    @property
    def target(self) -> str:
        """The target domain; "none" where no domain was kept unseen."""
        return self.accuracy.target

    @property
    def ood_unknown(self) -> str | None:
        """Why there is no OOD accuracy, in words; None where there is one."""
        return None if self.target in self.metrics else without_ood(len(self.metrics))


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
        tree = json.loads(read_text(path / RECORD))
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
