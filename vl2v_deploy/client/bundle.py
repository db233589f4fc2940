"""The bundle on disk: what it holds, and the check that it is whole.

BUNDLE/
  manifest.json      classes, input and outputs, precisions, confidence, accuracy, parity, versions
  student.onnx       images: uint8 (B,S,S,3) -> logits: float32 (B,K), embedding: float32 (B,D)
  student.*.onnx     the same in fp16, int8, int8-symmetric, if exported
  *.plan, *.json     TensorRT engines and their passports, if built
  reference.npz      how source validation was answered, for a Monitor to compare with
  README.md          the model card, made from manifest.json
  sbom.cdx.json      the same for machines: CycloneDX 1.6, with the packages that run it
  model.sig          the signature of all of this, if signed; not in SHA256SUMS
  golden/            encoded images and expected.npz: what the student must answer
  recipe.yaml        the resolved recipe it came from
  SHA256SUMS         of all of the above (`sha256sum -c SHA256SUMS` works)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

from vl2v_deploy.client.checksums import CHECKSUMS, bounded_text, check_file, read_checksums, unreadable
from vl2v_deploy.client.external_data import external_files
from vl2v_deploy.client.manifest import Manifest, manifest_from_text
from vl2v_deploy.client.manifest_sense import require_sense
from vl2v_deploy.client.onnx_file import OnnxFile
from vl2v_deploy.client.preprocess import PREPROCESSING
from vl2v_deploy.errors import BundleError, did_you_mean

MANIFEST, ONNX = "manifest.json", "student.onnx"
GOLDEN = "golden/expected.npz"
REQUIRED = (MANIFEST, ONNX, GOLDEN)
# int8: uint8 activations with a zero point, fast in onnxruntime and OpenVINO. int8-symmetric: for TensorRT.
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-symmetric"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MOST_MANIFEST_BYTES = 64_000_000


def file_of(precision: Precision) -> str:
    """Name of the ONNX file of a precision.

    >>> file_of("fp32"), file_of("int8")
    ('student.onnx', 'student.int8.onnx')
    """
    return ONNX if precision == "fp32" else f"student.{precision}.onnx"


def numeric(precision: str) -> Literal["fp32", "fp16", "int8"]:
    """The arithmetic of a precision, whatever its form.

    >>> numeric("int8-symmetric"), numeric("fp16")
    ('int8', 'fp16')
    """
    match precision:
        case "fp32" | "fp16":
            return precision
        case "int8" | "int8-symmetric":
            return "int8"
    raise ValueError(f"precision {precision}: expected one of {', '.join(PRECISIONS)}")


def engine_precision(precision: str) -> Precision:
    """The precision of the file that a TensorRT engine of this arithmetic is built from.

    >>> engine_precision("int8"), engine_precision("fp16")
    ('int8-symmetric', 'fp16')
    """
    arithmetic = numeric(precision)
    return "int8-symmetric" if arithmetic == "int8" else arithmetic


@dataclass(frozen=True)
class Bundle:
    """A bundle whose checksums were verified.

    path:     the directory
    manifest: the whole of manifest.json
    zip:      the file it was unpacked from; None where it was none
    sums:     SHA-256 of every file that belongs to it: no other may be read
    """

    path: Path
    manifest: Manifest
    zip: Path | None = None
    sums: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """What the user named: the directory or the zip file."""
        return self.zip or self.path

    @property
    def name(self) -> str:
        """Of the directory or zip file, without the ending."""
        return self.source.resolve().name.removesuffix(".zip")

    @property
    def classes(self) -> tuple[str, ...]:
        """K class names, in the order of the logits."""
        return self.manifest.classes

    @property
    def image_size_px(self) -> int:
        """S, side of the square that the graph takes."""
        return self.manifest.image_size_px

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.manifest.embedding_dim

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of its ONNX files."""
        return tuple(name for name in PRECISIONS if name in self.manifest.precisions)

    @property
    def onnx(self) -> Path:
        return self.path / ONNX

    @property
    def draft(self) -> bool:
        """Whether large JPEGs are decoded at a fraction of their size, as they were when it was measured."""
        return self.manifest.preprocessing == PREPROCESSING

    @property
    def logit_scale(self) -> float:
        """Of the graph's logits: the teacher's s over the temperature that calibrates confidence."""
        return self.manifest.logit_scale / self.manifest.confidence.temperature

    def file(self, precision: str) -> OnnxFile:
        """What the manifest says of a precision's ONNX file; BundleError when the bundle has none."""
        if precision not in self.precisions:
            known = precision in PRECISIONS
            make = f"; make one with: vl2v-deploy export RUN --precision {precision}" if known else ""
            raise BundleError(
                f"{self.source}: holds no {precision} file{did_you_mean(precision, self.precisions)}; it "
                f"has: {', '.join(self.precisions)}{make}"
            )
        return self.manifest.precisions[precision]

    def onnx_of(self, precision: str) -> Path:
        """The ONNX file of a precision; BundleError when the bundle has none."""
        return self.path / self.file(precision).file

    def listed(self, name: str) -> Path:
        """A file of the bundle by its name; BundleError for one that SHA256SUMS does not list."""
        if name not in self.sums:
            raise BundleError(f"{self.path / name}: is not in {CHECKSUMS}: refused; export the run again")
        return self.path / name

    def may_saturate(self, precision: str) -> bool:
        """Whether an int8 file is not proven to answer the same without VNNI; False for fp32 and fp16."""
        if numeric(precision) != "int8":
            return False
        weights = self.file(precision).weights
        return weights is None or weights.layers_that_may_saturate != ()


def open_bundle(path: str | Path) -> Bundle:
    """The bundle at `path`, every checksum verified.

    Raises BundleError when a file is missing or changed, the format is not one this version reads, or an
    ONNX file has weights in a file that SHA256SUMS does not list.
    """
    root = Path(path)
    if root.is_file():
        raise BundleError(f"{root}: is a file; unzip it, or use Student.load or client.archive.opened_bundle")
    if not root.is_dir():
        raise BundleError(f"{root}: no such bundle directory; make one with: vl2v-deploy export")
    sums = read_checksums(root / CHECKSUMS)
    for name in REQUIRED:
        if name not in sums:
            raise BundleError(f"{root / CHECKSUMS}: does not list {name}: not a complete bundle")
    for name, expected in sums.items():
        check_file(root / name, expected, root)
    return _bundle_from_manifest(root, sums)


def newest_bundle(folder: Path) -> Path:
    """The bundle in `folder` that was made last; BundleError when there is none."""
    found = [
        path.parent
        for path in folder.glob(f"*/{CHECKSUMS}")
        if not path.parent.name.endswith((".partial", ".replaced"))
    ]
    if not found:
        raise BundleError(f"{folder}: holds no bundle; make one with: vl2v-deploy export")
    return max(found, key=lambda bundle: (bundle / CHECKSUMS).stat().st_mtime)


def _bundle_from_manifest(root: Path, sums: Mapping[str, str]) -> Bundle:
    path = root / MANIFEST
    try:
        manifest = manifest_from_text(bounded_text(path, MOST_MANIFEST_BYTES), str(path))
    except OSError as error:
        raise unreadable(path, root, error) from error
    require_sense(manifest, str(path))
    bundle = Bundle(root, manifest, sums=sums)
    if "fp32" not in bundle.precisions:
        raise BundleError(f"{path}: precisions: holds no fp32 file: not a complete bundle; export again")
    for name in bundle.precisions:
        if (file := bundle.file(name).file) not in sums:
            raise BundleError(f"{path}: precisions.{name}.file: {_cut(file)} is not in {CHECKSUMS}: refused")
        _check_external_data(root, file, sums)
    for plan in bundle.manifest.engines:
        if plan not in sums:
            raise BundleError(f"{path}: engines: {_cut(plan)} is not in {CHECKSUMS}: refused")
    return bundle


def _check_external_data(root: Path, onnx: str, sums: Mapping[str, str]) -> None:
    """BundleError where onnxruntime would read weights from a file that was not verified."""
    if not onnx.endswith(".onnx"):  # by another ending onnxruntime takes it for its own format
        raise BundleError(f"{root / MANIFEST}: {_cut(onnx)}: expected a file that ends in .onnx")
    try:
        locations = external_files(root / onnx)
    except OSError as error:
        raise unreadable(root / onnx, root, error) from error
    except ValueError as error:
        raise BundleError(f"{root / onnx}: {error}") from error
    for location in locations:
        name = (PurePosixPath(onnx).parent / location).as_posix()
        if not location or name not in sums:
            raise BundleError(
                f"{root / onnx}: has weights in {_cut(location)}, which {CHECKSUMS} does not list: refused"
            )


def _cut(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:100]!r}..."
