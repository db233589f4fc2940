"""config.pbtxt of each model of a bundle, and which of its files become models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from vl2v_deploy import __version__
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.manifest import TensorFacts
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.tensorrt.passport import read_passport

Device: TypeAlias = Literal["cpu", "gpu"]
LABELS = "labels.txt"
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}


@dataclass(frozen=True)
class TritonOptions:
    """How Triton is to serve a bundle.

    device:         what onnxruntime's models run on; TensorRT's always run on GPUs
    max_batch:      largest batch of onnxruntime's models; TensorRT's have their profile's
    queue_delay_us: longest that a request waits for others to join its batch, in microseconds
    """

    device: Device = "cpu"
    max_batch: int = 64
    queue_delay_us: int = 500

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise ExportError(
                f"Triton: device {self.device!r}: expected one of {', '.join(get_args(Device))}"
            )
        if self.max_batch < 1:
            raise ExportError(f"Triton: max_batch {self.max_batch}: expected at least 1")
        if self.queue_delay_us < 0:
            raise ExportError(f"Triton: queue_delay_us {self.queue_delay_us}: expected at least 0")


DEFAULTS = TritonOptions()


@dataclass(frozen=True)
class Model:
    """One model of the repository.

    name:      of it and of its folder
    file:      in the bundle
    precision: fp32, fp16 or int8
    max_batch: largest batch
    preferred: batch sizes to aim at, rising; empty = as large as the queue gives
    passport:  of a TensorRT engine, else None
    """

    name: str
    file: str
    backend: Literal["onnxruntime", "tensorrt"]
    precision: str
    device: Device
    max_batch: int
    preferred: tuple[int, ...] = ()
    passport: Passport | None = None

    @property
    def model_file(self) -> str:
        """What Triton wants the file to be called."""
        return "model.onnx" if self.backend == "onnxruntime" else "model.plan"


def config_text(bundle: Bundle, model: Model, options: TritonOptions = DEFAULTS) -> str:
    """config.pbtxt: a ModelConfig of Triton's model_config.proto, as protobuf text."""
    manifest = bundle.manifest
    [images] = (_tensor(name, facts) for name, facts in manifest.input.items())
    outputs = ",\n".join(
        _tensor(name, facts, f' label_filename: "{LABELS}"' if name == "logits" else "")
        for name, facts in manifest.outputs.items()
    )
    source = json.dumps(bundle.name)
    lines = [
        f"# {model.file} of bundle {source}; written by vl2v-deploy {__version__}",
        f'name: "{model.name}"',
        f'platform: "{_PLATFORMS[model.backend]}"',
        f'backend: "{model.backend}"',
        f'default_model_filename: "{model.model_file}"',
        f"max_batch_size: {model.max_batch}  # the shapes below are without the batch",
        f"input [\n{images}\n]",
        f"output [\n{outputs}\n]",
        f"instance_group [ {{ count: 1 kind: KIND_{model.device.upper()} }} ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if model.max_batch > 1:
        preferred = f"preferred_batch_size: {list(model.preferred)} " if model.preferred else ""
        delay = f"max_queue_delay_microseconds: {options.queue_delay_us}"
        lines.append(f"dynamic_batching {{ {preferred}{delay} }}")
    return "\n".join(lines) + "\n"


def _tensor(name: str, facts: TensorFacts, more: str = "") -> str:
    return f'  {{ name: "{name}" data_type: {_TYPES[facts.dtype]} dims: {list(facts.shape[1:])}{more} }}'


def models_of(bundle: Bundle, options: TritonOptions) -> tuple[tuple[Model, ...], dict[str, str]]:
    """The models that Triton can run of a bundle; and of its other files, why not.

    Raises BundleError when an engine's passport is missing or not its own.
    """
    models, left_out = [], {}
    for precision in bundle.precisions:
        file = bundle.onnx_of(precision).name
        if precision == "int8-symmetric":
            left_out[file] = "the form that TensorRT engines are built from; onnxruntime runs it slowly"
            continue
        name = f"student_{precision}"
        models.append(Model(name, file, "onnxruntime", precision, options.device, options.max_batch))
    for file in bundle.manifest.engines:
        passport = read_passport(bundle.path / file)
        if passport.flavour != "tensorrt":
            left_out[file] = "Triton's TensorRT backend cannot load engines of TensorRT-RTX"
        elif passport.usable is False:
            left_out[file] = f"marked unusable: {passport.unusable_because}"
        else:
            models.append(_of_engine(file, passport))
    return tuple(models), left_out


def _of_engine(file: str, passport: Passport) -> Model:
    precision, profile = passport.precision, passport.profile
    # The engine is tuned for one batch size, so batches of it are worth sending at once; Triton advises
    # against preferred sizes where none is faster than its neighbours, as in onnxruntime.
    preferred = tuple(sorted({size for size in (profile.opt, profile.max) if size > 1}))
    return Model(
        f"student_{precision}_trt", file, "tensorrt", precision, "gpu", profile.max, preferred, passport
    )
