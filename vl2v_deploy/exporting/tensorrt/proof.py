"""Proof of an engine's precision: the types its layers compute in, as the engine inspector tells them.

The inspector's JSON has two layouts. TensorRT 10: `Bindings`, and each tensor with one `Format/Datatype`.
TensorRT 11: `I/O Tensors`, and each tensor with a `Format` and a `DataType` (some versions: `Datatype`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vl2v_deploy.errors import ExportError, ProviderError
from vl2v_deploy.exporting.tensorrt.library import load_engine

# The first match counts: 'BFloat16' holds 'Float16', 'UInt8' holds 'Int8'.
_TYPES = (
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp8", r"fp8|e4m3"),
    ("other", r"uint8|int32|int64|bool|int4|fp4"),
    ("int8", r"int8"),
    ("fp32", r"fp32|float"),
)
_COMPUTE = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")
# Layers that multiply matrices, by what the inspector calls them: where an engine spends its time.
_HEAVY = re.compile(r"conv|gemm|gemv|matrix|matmul|mha|attention|einsum|fully", re.IGNORECASE)


@dataclass(frozen=True)
class LayerTypes:
    """How many layers compute in which type; 'other' is integer and byte work, 'unknown' was not told.

    all_layers:   every layer of the engine
    heavy_layers: those of them that multiply matrices (convolution, matrix product, attention)
    """

    all_layers: dict[str, int]
    heavy_layers: dict[str, int]

    def shares(self) -> dict[str, float]:
        """Share of the heavy layers in each type that was told, in [0, 1]; empty when none was."""
        told = {kind: count for kind, count in self.heavy_layers.items() if kind != "unknown"}
        return {kind: count / sum(told.values()) for kind, count in told.items()}


def layer_types(inspector_json: str) -> LayerTypes:
    """Layers counted by compute type, from the text of EngineInspector.get_engine_information(JSON).

    A layer computes in the type of its first floating or int8 input: weights that are only stored as int8 and
    multiplied in half precision count as fp16. An fp32 layer whose tactic is a TF32 kernel counts as tf32.

    Raises ExportError when the text is not such JSON, or holds layer names only (the engine was not built
    with detailed profiling verbosity).
    """
    try:
        layers = json.loads(inspector_json)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"engine inspector: expected a JSON object with Layers, got {error}") from error
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise ExportError("engine inspector: layer names only: the engine was not built with layer details")
    every: Counter[str] = Counter()
    heavy: Counter[str] = Counter()
    for layer in layers:
        kind = _compute_type(layer)
        every[kind] += 1
        if _HEAVY.search(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"):
            heavy[kind] += 1
    return LayerTypes(dict(every), dict(heavy))


def precision_proof(
    trt: ModuleType, plan: Path, batch: int, mac_shares: Mapping[str, float] | None
) -> dict[str, Any]:
    """What the passport says in proof of its precision: the engine's own layers where they can be read.

    batch:      within the profile; without it the inspector tells no types of a dynamic shape
    mac_shares: share of the graph's MACs in each type
    """
    proof = {"onnx_mac_shares": dict(mac_shares) if mac_shares is not None else None}
    try:
        types = layer_types(read_inspector(trt, plan, batch))
    except (ExportError, ProviderError) as error:
        return proof | {"engine_layers": None, "engine_shares": None, "engine_layers_note": str(error)}
    shares = types.shares()
    return proof | {
        "engine_layers": types.all_layers,
        "engine_heavy_layers": types.heavy_layers,
        "engine_shares": shares,
        "engine_layers_note": None if shares else "no layer that multiplies matrices told its type",
    }


def read_inspector(trt: ModuleType, plan: Path, batch: int) -> str:
    """The engine inspector's JSON of the plan, with the input's batch set; needs the GPU it was built for.

    Raises ExportError without a GPU, ProviderError when the library refuses the plan.
    """
    if not torch.cuda.is_available():
        raise ExportError("no GPU here: the engine cannot be deserialized, so its layers cannot be read")
    engine = load_engine(trt, plan, trusted=True)  # built by this package, or proved to be by its passport
    context = engine.create_execution_context()
    name = engine.get_tensor_name(0)
    context.set_input_shape(name, (batch, *tuple(engine.get_tensor_shape(name))[1:]))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _compute_type(layer: Mapping[str, Any]) -> str:
    types = [_tensor_type(tensor) for tensor in layer.get("Inputs") or ()]
    kind = next((name for name in types if name in _COMPUTE), types[0] if types else "unknown")
    if kind == "fp32" and "tf32" in str(layer.get("TacticName", "")).lower():
        return "tf32"
    return kind


def _tensor_type(tensor: Any) -> str:
    """The type in whichever field tells it; of a shape not set it is 'N/A due to dynamic shapes'."""
    if not isinstance(tensor, dict):
        return "unknown"
    for field in ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format"):
        for name, pattern in _TYPES:
            if re.search(pattern, str(tensor.get(field, "")), re.IGNORECASE):
                return name
    return "unknown"
