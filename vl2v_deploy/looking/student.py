"""The student in a run directory or a bundle, ready to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vl2v_deploy.client import Bundle
from vl2v_deploy.client import Student as ClientStudent
from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.archive import opened_bundle
from vl2v_deploy.client.checksums import CHECKSUMS
from vl2v_deploy.client.images import Pixels
from vl2v_deploy.errors import BundleError, RunError
from vl2v_deploy.looking.answers import Subject
from vl2v_deploy.models.record import RECORD, finished_runs
from vl2v_deploy.names import command, shown
from vl2v_deploy.recipe import load_run_recipe


@contextmanager
def opened_subject(path: Path, precision: str) -> Iterator[Subject]:
    """The student of a run directory, a bundle directory or a zip file of one, while it is loaded.

    precision: of the bundle's files, as Student.load takes it; of a run only "auto", it answers in torch

    Raises RunError or BundleError for what is neither, and for one that is damaged.
    """
    if (path / RECORD).is_file():
        if precision not in ("auto", "fp32"):
            raise RunError(
                f"{shown(path)}: a run answers in fp32 only, got {precision!r}; "
                "export it, and look at the bundle"
            )
        yield subject_from_run(path)
        return
    if path.is_dir() and not (path / CHECKSUMS).is_file():
        raise RunError(_neither(path))
    with opened_bundle(path) as bundle, ClientStudent.load(bundle, precision=precision) as student:
        yield subject_from_student(bundle, student)


def subject_from_run(path: Path) -> Subject:
    """The student as training left it, in torch. Its confidence is not calibrated, and it never abstains."""
    import torch  # a bundle is looked at without it

    from vl2v_deploy.exporting.graph.student_graph import deployed_student
    from vl2v_deploy.models.run_directory import load_run

    run = load_run(path)
    graph = deployed_student(run)

    def answer(pixels: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            logits, embeddings = graph(torch.from_numpy(pixels))
        return logits.numpy(), embeddings.numpy()

    return Subject(
        name=path.resolve().name,
        kind="run",
        precision="fp32",
        classes=run.classes,
        recipe=run.recipe,
        target=run.record.target,
        target_role=run.record.target_role,
        logit_scale=run.logit_scale,
        size_px=run.recipe.student.image_size_px,
        draft=True,
        abstain_below=None,
        usual_shares=None,
        fingerprint=run.record.data.fingerprint,
        answer=answer,
    )


def subject_from_student(bundle: Bundle, student: ClientStudent) -> Subject:
    """The student of a bundle.

    Raises BundleError for one without the recipe that it came from.
    """
    if "recipe.yaml" not in bundle.sums:
        raise BundleError(
            f"{bundle.source}: holds no recipe.yaml, which names its images; export the run again"
        )
    recipe, manifest = load_run_recipe(bundle.path / "recipe.yaml"), bundle.manifest
    reference = manifest.reference.precisions.get(student.precision) if manifest.reference else None
    return Subject(
        name=bundle.name,
        kind="bundle",
        precision=student.precision,
        classes=bundle.classes,
        recipe=recipe,
        target=manifest.accuracy.target if manifest.accuracy else recipe.data.target,
        target_role=manifest.run.target_role if manifest.run else "target, OOD",
        logit_scale=manifest.logit_scale,
        size_px=bundle.image_size_px,
        draft=bundle.draft,
        abstain_below=manifest.confidence.abstain_below,
        usual_shares=reference.class_shares if reference else None,
        fingerprint=manifest.run.data.fingerprint if manifest.run else None,
        answer=student.run,
    )


def _neither(path: Path) -> str:
    said = f"{shown(path)}: is neither a run directory (no {RECORD}) nor a bundle (no {CHECKSUMS})"
    if inside := finished_runs(path):
        return f"{said}, but holds runs: {command('look', inside[-1])}"
    return f"{said}; a run is made by vl2v-deploy distill, a bundle by vl2v-deploy export"
