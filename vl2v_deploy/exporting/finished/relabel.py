"""`vl2v-deploy relabel`: new class names in a finished bundle, without training.

The student answers with an embedding in the teacher's space; which classes there are is one matrix at the end
of its graph, made from texts. It is replaced in every ONNX file, and all before it stays as it is, which is
checked. What was measured with the old classes is not true of the new ones: it moves to `relabelled.from` of
the manifest. Labels of the golden samples are classes no more: they are -1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from rich.console import Console

from vl2v_deploy.client.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    Precision,
    numeric,
    open_bundle,
    sha256_of,
)
from vl2v_deploy.errors import ExportError, ModelError, ParityError
from vl2v_deploy.exporting.finished.new_classes import NewClasses, new_classes
from vl2v_deploy.exporting.finished.verification import require_passed, verify_bundle
from vl2v_deploy.exporting.graph.classifier import with_classifier
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.student_graph import write_model
from vl2v_deploy.exporting.manifest import write_manifest
from vl2v_deploy.exporting.precision.parity import TOLERANCES, Floats, Reference, compare
from vl2v_deploy.exporting.precision.precisions import References, engine_precision
from vl2v_deploy.exporting.precision.sessions import answers_of_session, open_exact
from vl2v_deploy.exporting.progress import export_progress
from vl2v_deploy.exporting.run import require_free
from vl2v_deploy.exporting.tensorrt.build import EngineRequest, require_buildable
from vl2v_deploy.exporting.tensorrt.engines import build_engines
from vl2v_deploy.folders import whole_folder
from vl2v_deploy.models.run_directory import RECIPE
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import prompt_classifier
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import dump_recipe

NOTE = (
    "accuracy is not known for these classes, and nothing abstains; the temperature, and how fp16 and int8 "
    "files were made, are from the classes the student was distilled with"
)
Record = dict[str, Any]


def relabel_bundle(
    path: Path,
    classes: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    engines: Sequence[EngineRequest] = (),
    overwrite: bool = False,
) -> Record:
    """A bundle at `out` that tells other classes apart; its manifest. The old one is left as it is.

    classes:   file of the new ones, as data.prompts.classes_from_file reads it
    overrides: as exporting.finished.new_classes.new_classes takes them
    engines:   to build from the new files; those of the old bundle know only its classes and are left out

    Raises BundleError for a damaged bundle, ExportError for one that cannot be relabelled or when `out` is
    in the way, DataError and RecipeError for classes that cannot be used, ModelError for another teacher than
    it was distilled from, ParityError when a new file answers otherwise than it should.
    """
    bundle = open_bundle(path)
    require_free(out, overwrite)
    if bundle.manifest["student"]["classifier"] != "text embeddings":
        raise ExportError(
            f"{path}: its classes are a trained head ({bundle.manifest['student']['method']}), not texts: "
            "only students that predict with text embeddings (adip and kin) can be relabelled; distill anew"
        )
    builders = [(require_buildable(request), request) for request in engines]
    # An int8 file with zero points is not for TensorRT: without the other form there is no int8 engine.
    wanted = [name for name in dict.fromkeys(map(numeric, bundle.precisions)) if _has_file(bundle, name)]
    new = new_classes(bundle, classes, overrides)
    classifier = _classifier(bundle, new)
    with whole_folder(out, RECIPE) as partial:
        (partial / RECIPE).write_text(dump_recipe(new.recipe), encoding="utf-8")
        _copy_golden(bundle, partial)
        golden = _golden(bundle, classifier)
        records, checks = _write_files(bundle, partial, new, classifier, golden)
        with export_progress(Console(stderr=True)) as progress:
            passports = build_engines(
                builders, partial, wanted, records, References(golden, golden), progress
            )
        write_manifest(partial, _manifest(bundle, new, records, checks, passports))
        files_only = [check for check in verify_bundle(partial) if not check.what.endswith(".plan")]
        require_passed(partial, files_only)  # an engine that is wrong stays, marked so in its passport
    return open_bundle(out).manifest


def _has_file(bundle: Bundle, precision: Precision) -> bool:
    return engine_precision(precision) in bundle.precisions


def _classifier(bundle: Bundle, new: NewClasses) -> Floats:
    """Text embeddings of the new classes times the scale of the logits; (D, K')."""
    teacher = load_teacher(new.recipe.teacher)
    # What `normalization: faithful` adds is about images; texts are the same teacher's.
    distilled = str(bundle.manifest["run"]["teacher"]["identity"]).partition("+faithful(")[0]
    if teacher.identity != distilled:
        called = " ".join(new.recipe.teacher.names)
        raise ModelError(
            f"{bundle.path}: was distilled from the teacher {distilled}, and {called} is "
            f"{teacher.identity}: its texts lie in another space; name the right one "
            "with --set teacher.model=..."
        )
    text_emb = prompt_classifier(teacher, list(new.prompts.values()))  # (K', D)
    scaled: Floats = (bundle.logit_scale * text_emb).T.contiguous().numpy()
    return scaled


def _copy_golden(bundle: Bundle, partial: Path) -> None:
    folder = Path(GOLDEN).parent
    (partial / folder).mkdir()
    for name in bundle.manifest["files"]:
        if Path(name).parent == folder and name != GOLDEN:
            shutil.copyfile(bundle.path / name, partial / name)


def _golden(bundle: Bundle, classifier: Floats) -> Reference:
    """torch's embeddings of the golden samples, and its logits with the new classifier."""
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
        images, embedding = golden["images"], golden["embedding"]
    return Reference(
        images, _product(embedding, classifier).astype(np.float32), embedding, bundle.logit_scale
    )


def _write_files(
    bundle: Bundle, partial: Path, new: NewClasses, classifier: Floats, golden: Reference
) -> tuple[dict[str, Record], dict[str, Record]]:
    """Every ONNX file with the new classifier, and golden/expected.npz.

    Returns by precision what the manifest says of each file, and how its answers compare with the old file's.
    """
    records: dict[str, Record] = {}
    checks: dict[str, Record] = {}
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
        macs = count_macs(model)
        parity = compare(golden, logits[precision], embedding, TOLERANCES["onnxruntime", numeric(precision)])
        records[precision] = {
            **bundle.manifest["precisions"][precision],
            "bytes": file.stat().st_size,
            "macs": macs.record(),
            "parity": {
                "engine": "onnxruntime",
                **asdict(parity),
                "batch_sizes": [len(golden.images)],
                "elsewhere": asdict(TOLERANCES["elsewhere", numeric(precision)]),
            },
            "accuracy": None,
        }
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as expected:
        arrays = {name: expected[name] for name in ("names", "labels", "images")}
    arrays["labels"] = np.full_like(arrays["labels"], -1)
    answers = {f"logits_{precision}": rows for precision, rows in logits.items()}
    torch_answers = {"logits": golden.logits, "embedding": golden.embedding}
    np.savez(partial / GOLDEN, allow_pickle=False, **arrays, **torch_answers, **answers)
    return records, checks


def _check(
    precision: str,
    name: str,
    logits: Floats,
    embedding: Floats,
    before: Floats,
    classifier: Floats,
    golden: Reference,
) -> Record:
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
    return {"images": len(logits), "max_embedding_change": moved, "max_logit_error": off}


def _manifest(
    bundle: Bundle,
    new: NewClasses,
    records: Mapping[str, Record],
    checks: Mapping[str, Record],
    passports: Mapping[str, Record],
) -> Record:
    was = bundle.manifest
    logits = {**was["outputs"]["logits"], "shape": ["batch", len(new.classes)]}
    unknown = {"abstain_below": None, "coverage": None, "accuracy_of_answered": None, "note": NOTE}
    return {
        **was,
        "classes": list(new.classes),
        "outputs": {**was["outputs"], "logits": logits},
        "confidence": {**was["confidence"], **unknown},
        "precisions": dict(records),
        "engines": dict(passports),
        "accuracy": None,
        "relabelled": {
            "prompts": {name: list(texts) for name, texts in new.prompts.items()},
            "teacher": was["run"]["teacher"]["identity"],
            "parity": dict(checks),
            "note": NOTE,
            "versions": package_versions(),
            "from": _before(bundle),
        },
    }


def _before(bundle: Bundle) -> Record:
    """What stays on record of the bundle with the old classes."""
    was = bundle.manifest
    files = {record["file"]: precision for precision, record in was["precisions"].items()}
    return {
        "manifest_sha256": sha256_of(bundle.path / MANIFEST),
        "classes": was["classes"],
        "accuracy": was["accuracy"],
        "confidence": was["confidence"],
        "precisions": {
            precision: {
                "sha256": was["files"][file]["sha256"],
                "parity": was["precisions"][precision]["parity"],
                "accuracy": was["precisions"][precision]["accuracy"],
            }
            for file, precision in files.items()
        },
        "engines": sorted(was["engines"]),
        **({"relabelled": was["relabelled"]} if was.get("relabelled") else {}),
    }


def _product(embedding: Floats, classifier: Floats) -> npt.NDArray[np.float64]:
    """Logits in float64; (B, K')."""
    return embedding.astype(np.float64) @ classifier.astype(np.float64)
