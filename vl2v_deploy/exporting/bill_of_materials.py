"""sbom.cdx.json of a bundle: a CycloneDX 1.6 bill of materials (ML-BOM, ECMA-424), from the manifest.

The same bundle gives the same bytes: there is no time in it, and its serial number comes from its content.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from vl2v_deploy.client.manifest import FileDigest, Manifest
from vl2v_deploy.recipe import METHODS

BILL = "sbom.cdx.json"
NAME = "vl2v-deploy"
RUNTIME = ("numpy", "pillow", "onnxruntime")  # what the client needs
PREFIX = "vl2v-deploy:"  # of properties that CycloneDX has no field for
# Of what vl2v-deploy-demo ships: see its NOTICE. What others own is not known here.
_LICENCE_OF_BUILTIN = "CC-BY-SA-4.0"


def bill_of_materials(manifest: Manifest, files: Mapping[str, FileDigest]) -> dict[str, Any]:
    """The whole bill as a tree for `json.dumps`.

    manifest: of the bundle; its own list of files is not looked at
    files:    by name, of every file but the manifest, SHA256SUMS and this
    """
    student = _student(manifest)
    teacher, data = _teacher(manifest), _data(manifest)
    libraries = [_library(name, manifest) for name in RUNTIME]
    components = [*map(_file, files.items()), *teacher, *data, *libraries]
    content: dict[str, Any] = {
        "metadata": {
            "tools": {"components": [{"type": "application", "name": NAME, **_version_of(NAME, manifest)}]},
            "component": student,
        },
        "components": components,
        "dependencies": [
            {
                "ref": student["bom-ref"],
                "dependsOn": [one["bom-ref"] for one in (*teacher, *data, *libraries)],
            }
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return head | content


def _student(manifest: Manifest) -> dict[str, Any]:
    facts = manifest.student
    return {
        "type": "machine-learning-model",
        "bom-ref": "student",
        "name": f"{facts.backbone}, {len(manifest.classes)} classes",
        "description": "An image classifier, distilled from a vision-language model.",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image-classification",
                "architectureFamily": "image backbone of timm",
                "modelArchitecture": facts.backbone,
                "datasets": [{"ref": one["bom-ref"]} for one in _data(manifest)],
                "inputs": [
                    {"format": f"{name}: {x.dtype} {_shape(x.shape)}"} for name, x in manifest.input.items()
                ],
                "outputs": [
                    {"format": f"{name}: {x.dtype} {_shape(x.shape)}"} for name, x in manifest.outputs.items()
                ],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest))},
            "considerations": {
                "technicalLimitations": [
                    "Gives one of its classes to every image, also to one that shows none of them.",
                    "Accuracy is of the images that it was measured on; of others it is not known.",
                    "The licence is for its owner to state; those of teacher, backbone and images apply.",
                ]
            },
        },
        "properties": [
            *_properties({"method": _method(facts.method), "preprocessing": manifest.preprocessing}),
            *(_properties({"class": name})[0] for name in manifest.classes),
        ],
    }


def _method(name: str) -> str:
    known = METHODS.get(name)
    return known.label if known else name


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _metrics(manifest: Manifest) -> Iterator[dict[str, str]]:
    """Accuracy of each precision in each domain, as shares of 1."""
    for precision, file in manifest.precisions.items():
        for domain, found in (file.accuracy.domains if file.accuracy else {}).items():
            of = f"{precision}, {found.role} domain {domain}, {found.images} images of split {found.split}"
            yield {"type": "accuracy", "value": f"{found.accuracy:.4f}", "slice": of}
            yield {"type": "expected calibration error", "value": f"{found.ece:.4f}", "slice": of}


def _file(item: tuple[str, FileDigest]) -> dict[str, Any]:
    name, digest = item
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest.sha256}],
    }


def _teacher(manifest: Manifest) -> list[dict[str, Any]]:
    """The model that the student was distilled from; none where the manifest does not know the run."""
    if manifest.run is None:
        return []
    teacher = manifest.run.teacher
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "teacher",
        "name": teacher.identity,
        "description": "The teacher that the student was distilled from; not in the bundle.",
    }
    if teacher.identity.startswith("builtin:"):
        found["licenses"] = [{"license": {"id": _LICENCE_OF_BUILTIN}}]
    if teacher.terms:
        found["properties"] = _properties(
            {
                "terms": teacher.terms.url,
                "terms read on": teacher.terms.read_on,
                "terms permit": teacher.terms.permits,
            }
        )
    return [found]


def _data(manifest: Manifest) -> list[dict[str, Any]]:
    """The images that it was distilled from: their domains, how many, and the hash over all of them."""
    if manifest.run is None or manifest.run.data.images is None:
        return []
    data = manifest.run.data
    counts = {f"images of {name}": _counts(splits) for name, splits in (data.images or {}).items()}
    return [
        {
            "type": "data",
            "bom-ref": "data",
            "name": "labelled images",
            "description": "The images that the student was distilled from; not in the bundle.",
            "data": [{"type": "dataset", "name": "labelled images"}],
            "properties": _properties({"fingerprint": data.fingerprint, **counts}),
        }
    ]


def _counts(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in splits.items())


def _library(name: str, manifest: Manifest) -> dict[str, Any]:
    """A package of the client: the version of this export, its licence, and the range that was tested."""
    version = _version_of(name, manifest)
    at = f"@{version['version']}" if version else ""
    ranges = [line for line in _requirements() if line.partition(";")[0].startswith(name)]
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}{at}",
        "name": name,
        **version,
        "purl": f"pkg:pypi/{name}{at}",
        "scope": "required",
        **_licence(name),
    }
    if ranges:
        found["properties"] = _properties(
            {"tested range": ranges[0].partition(";")[0].removeprefix(name).strip()}
        )
    return found


def _version_of(name: str, manifest: Manifest) -> dict[str, str]:
    """As the manifest has it of the export, else as it is installed; empty where neither knows."""
    version = manifest.versions.get("export", {}).get(name)
    try:
        return {"version": version or metadata.version(name)}
    except metadata.PackageNotFoundError:
        return {}


def _licence(name: str) -> dict[str, Any]:
    """What the package's own metadata says; empty where it is not installed or says nothing short."""
    try:
        told = metadata.metadata(name).json
    except metadata.PackageNotFoundError:
        return {}
    if expression := told.get("license_expression"):
        return {"licenses": [{"expression": expression}]}
    named = str(told.get("license", "")).strip()
    return {"licenses": [{"license": {"name": named}}]} if named and "\n" not in named else {}


def _requirements() -> list[str]:
    """What this package asks for, a line each, its base before its extras."""
    try:
        return metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []


def _properties(named: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"{PREFIX}{name}", "value": value} for name, value in named.items()]
