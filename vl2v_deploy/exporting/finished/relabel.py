"""`vl2v-deploy relabel`: new class names in a finished bundle, without training.

The student answers with an embedding in the teacher's space; the classes are one matrix at the end of its
graph, made from texts. It is replaced in every ONNX file; that everything before it stays as it is, is
checked. What was measured with the old classes does not hold for the new ones: it moves to `relabelled.from`
of the manifest. The golden samples have no label among the new classes: theirs is -1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    Precision,
    engine_precision,
    numeric,
    open_bundle,
)
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.golden import golden_of
from vl2v_deploy.client.manifest import (
    TEXT_EMBEDDINGS,
    Before,
    FileBefore,
    Manifest,
    RelabelCheck,
    Relabelled,
)
from vl2v_deploy.client.onnx_file import OnnxFile
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.errors import ExportError, ModelError, ParityError
from vl2v_deploy.exporting.finished.new_classes import NewClasses, new_classes
from vl2v_deploy.exporting.finished.verification import require_passed, verify_bundle
from vl2v_deploy.exporting.graph.classifier import with_classifier
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.student_graph import write_model
from vl2v_deploy.exporting.manifest import write_manifest
from vl2v_deploy.exporting.options import EngineRequest
from vl2v_deploy.exporting.precision.parity import Reference, compare
from vl2v_deploy.exporting.precision.precisions import References
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact
from vl2v_deploy.exporting.precision.tolerances import TOLERANCES
from vl2v_deploy.exporting.progress import export_progress
from vl2v_deploy.exporting.reference import keep_embedding_reference
from vl2v_deploy.exporting.run import require_free
from vl2v_deploy.exporting.tensorrt.build import require_buildable
from vl2v_deploy.exporting.tensorrt.engines import build_engines
from vl2v_deploy.folders import whole_folder
from vl2v_deploy.models.run_directory import RECIPE
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.classes import near_text, prompt_facts, prompt_notices, require_distinct
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import dump_recipe
from vl2v_deploy.terminal import new_console

NOTE = (
    "accuracy is not known for these classes, and nothing abstains; the temperature, and how fp16 and int8 "
    "files were made, are from the classes the student was distilled with"
)


def relabel_bundle(
    path: Path,
    classes: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    engines: Sequence[EngineRequest] = (),
    overwrite: bool = False,
) -> Manifest:
    """Write a bundle for other classes to `out`; returns its manifest. The old one is left as it is.

    classes:   file of the new ones, as data.prompts.classes_from_file reads it
    overrides: as exporting.finished.new_classes.new_classes takes them
    engines:   to build from the new files; those of the old bundle know only its classes and are left out

    Raises BundleError for a damaged bundle, ExportError for one that cannot be relabelled or when `out` is
    in the way, DataError and RecipeError for classes that cannot be used, ModelError for another teacher than
    it was distilled from, ParityError when a new file answers otherwise than it should.
    """
    bundle = open_bundle(path)
    require_free(out, overwrite)
    student = bundle.manifest.student
    if student.classifier != TEXT_EMBEDDINGS:
        raise ExportError(
            f"{path}: its classes are a trained head ({student.method}), not texts: "
            "only students that predict with text embeddings can be relabelled; distill again"
        )
    for request in engines:
        require_buildable(request)
    # An int8 file with zero points is not for TensorRT: without the other form there is no int8 engine.
    wanted = [name for name in dict.fromkeys(map(numeric, bundle.precisions)) if _has_file(bundle, name)]
    new = new_classes(bundle, classes, overrides)
    classifier = _classifier(bundle, new)
    with whole_folder(out) as partial:
        (partial / RECIPE).write_text(dump_recipe(new.recipe), encoding="utf-8")
        _copy_golden(bundle, partial)
        golden = _golden(bundle, classifier)
        files, checks = _write_files(bundle, partial, new, classifier, golden)
        with export_progress(new_console(stderr=True)) as progress:
            both = References(golden, golden)
            passports = build_engines(engines, partial, wanted, files, both, progress)
        reference = keep_embedding_reference(bundle, partial)
        manifest = replace(_manifest(bundle, new, files, checks, passports), reference=reference)
        write_manifest(partial, manifest)
        written = verify_bundle(open_bundle(partial))
        # an engine that is wrong stays, marked so in its passport
        require_passed(partial, [check for check in written if not check.what.endswith(".plan")])
    return open_bundle(out).manifest


def _has_file(bundle: Bundle, precision: Precision) -> bool:
    return engine_precision(precision) in bundle.precisions


def _classifier(bundle: Bundle, new: NewClasses) -> Floats:
    """Text embeddings of the new classes times the scale of the logits; (D, K')."""
    teacher = load_teacher(new.recipe.teacher)
    # What `normalization: faithful` adds is about images; texts are the same teacher's.
    distilled = _teacher_of(bundle).partition("+faithful(")[0]
    if teacher.identity != distilled:
        called = " ".join(new.recipe.teacher.names)
        raise ModelError(
            f"{bundle.path}: was distilled from the teacher {distilled}, and {called} is "
            f"{teacher.identity}: its texts are in another space; name the right one "
            "with --set teacher.model=..."
        )
    store = EmbeddingStore(store_root(), teacher)  # of a vendor: texts are bought once
    prompts = list(new.prompts.values())
    text_emb = store.prompt_classifier(prompts)  # (K', D)
    facts = prompt_facts(teacher, prompts)
    near = require_distinct(new.classes, text_emb, prompts, facts.cut)
    for warning in [*prompt_notices(facts), *([near_text(near)] if near else [])]:
        new_console(stderr=True).print(warning, soft_wrap=True, highlight=False)
    scaled: Floats = (bundle.logit_scale * text_emb).T.contiguous().numpy()
    return scaled


def _teacher_of(bundle: Bundle) -> str:
    if bundle.manifest.run is None:
        raise ExportError(f"{bundle.path}: its manifest does not say which teacher it was distilled from")
    return bundle.manifest.run.teacher.identity


def _copy_golden(bundle: Bundle, partial: Path) -> None:
    folder = Path(GOLDEN).parent
    (partial / folder).mkdir()
    for name in bundle.manifest.files:
        if Path(name).parent == folder and name != GOLDEN:
            shutil.copyfile(bundle.path / name, partial / name)


def _golden(bundle: Bundle, classifier: Floats) -> Reference:
    """torch's embeddings of the golden samples, and its logits with the new classifier."""
    golden = golden_of(bundle)
    images, embedding = golden.images, golden.embedding
    return Reference(
        images, _product(embedding, classifier).astype(np.float32), embedding, bundle.logit_scale
    )


def _write_files(
    bundle: Bundle, partial: Path, new: NewClasses, classifier: Floats, golden: Reference
) -> tuple[dict[str, OnnxFile], dict[str, RelabelCheck]]:
    """Every ONNX file with the new classifier, and golden/expected.npz.

    Returns by precision what the manifest says of each file, and how its answers compare with the old file's.
    """
    files: dict[str, OnnxFile] = {}
    checks: dict[str, RelabelCheck] = {}
    logits: dict[str, Floats] = {}
    for precision in bundle.precisions:
        old = bundle.onnx_of(precision)
        file = partial / old.name
        model = with_classifier(onnx.load(old), classifier, new.classes, old.name)
        write_model(model, file)
        logits[precision], embedding = answers_of_session(open_exact(file), golden.images)
        _, before = answers_of_session(open_exact(old), golden.images)
        checks[precision] = _check(
            precision, file.name, logits[precision], embedding, before, classifier, golden
        )
        parity = compare(golden, logits[precision], embedding, TOLERANCES["onnxruntime", numeric(precision)])
        files[precision] = replace(
            bundle.file(precision),
            bytes=file.stat().st_size,
            macs=count_macs(model).facts(),
            parity=replace(
                parity,
                batch_sizes=(len(golden.images),),
                engine="onnxruntime",
                elsewhere=TOLERANCES["elsewhere", numeric(precision)],
            ),
            accuracy=None,
        )
    expected = golden_of(bundle).arrays
    arrays = {name: expected[name] for name in ("names", "images")}
    arrays["labels"] = np.full(len(expected["names"]), -1, np.int64)
    answers = {f"logits_{precision}": rows for precision, rows in logits.items()}
    torch_answers = {"logits": golden.logits, "embedding": golden.embedding}
    np.savez(partial / GOLDEN, allow_pickle=False, **arrays, **torch_answers, **answers)
    return files, checks


def _check(
    precision: str,
    name: str,
    logits: Floats,
    embedding: Floats,
    before: Floats,
    classifier: Floats,
    golden: Reference,
) -> RelabelCheck:
    """How a new file's answers to the golden samples compare with the old file's and with float64 arithmetic.

    Raises ParityError when the embedding moved, or the logits are not the product.
    """
    moved = float(np.abs(embedding - before).max())
    off = float(np.abs(logits - _product(embedding, classifier)).max())
    # An fp16 file may round its logits on the way out; in all others this product is fp32.
    share = TOLERANCES["onnxruntime", "fp16" if precision == "fp16" else "fp32"].logit_share
    limit, still = share * golden.logit_scale, TOLERANCES["onnxruntime", "fp32"].embedding
    # each written so that a NaN is refused
    if not moved <= still:
        raise ParityError(f"{name}: relabelling moved its embedding by {moved:.2e} (allowed {still:.0e})")
    if not off <= limit:
        raise ParityError(f"{name}: logits are {off:.2e} from the new classifier's (allowed {limit:.2e})")
    return RelabelCheck(images=len(logits), max_embedding_change=moved, max_logit_error=off)


def _manifest(
    bundle: Bundle,
    new: NewClasses,
    files: Mapping[str, OnnxFile],
    checks: Mapping[str, RelabelCheck],
    passports: Mapping[str, Passport],
) -> Manifest:
    was = bundle.manifest
    logits = replace(was.outputs["logits"], shape=("batch", len(new.classes)))
    return replace(
        was,
        classes=new.classes,
        outputs={**was.outputs, "logits": logits},
        confidence=replace(
            was.confidence, abstain_below=None, coverage=None, accuracy_of_answered=None, note=NOTE
        ),
        precisions=files,
        engines=passports,
        accuracy=None,
        relabelled=Relabelled(
            prompts=new.prompts,
            teacher=_teacher_of(bundle),
            parity=checks,
            note=NOTE,
            versions=package_versions(),
            before=_before(bundle),
        ),
    )


def _before(bundle: Bundle) -> Before:
    """What stays on record of the bundle with the old classes."""
    was = bundle.manifest
    return Before(
        manifest_sha256=sha256_of(bundle.path / MANIFEST),
        classes=was.classes,
        accuracy=was.accuracy,
        confidence=was.confidence,
        precisions={
            precision: FileBefore(was.files[made.file].sha256, made.parity, made.accuracy)
            for precision, made in was.precisions.items()
        },
        engines=tuple(sorted(was.engines)),
        relabelled=was.relabelled,
    )


def _product(embedding: Floats, classifier: Floats) -> npt.NDArray[np.float64]:
    """Logits in float64; (B, K')."""
    return embedding.astype(np.float64) @ classifier.astype(np.float64)
