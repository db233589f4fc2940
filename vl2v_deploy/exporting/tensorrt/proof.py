"""Proof of an engine's precision: the types its layers compute in, as the engine inspector gives them.

The inspector's JSON has two layouts. TensorRT 10: `Bindings`, and each tensor with one `Format/Datatype`.
TensorRT 11: `I/O Tensors`, and each tensor with a `Format` and a `DataType` (some versions: `Datatype`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vl2v_deploy.client.passport import PrecisionProof
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


def layer_types(inspector_json: str) -> tuple[dict[str, int], dict[str, int]]:
    """How many layers compute in each type, of all layers and of those that multiply matrices.

    A layer computes in the type of its first floating or int8 input: weights that are only stored as int8 and
    multiplied in half precision count as fp16. An fp32 layer whose tactic is a TF32 kernel counts as tf32,
    integer and byte work as "other", what the inspector leaves open as "unknown".

    inspector_json: of EngineInspector.get_engine_information(JSON)

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
    return dict(every), dict(heavy)


def shares_of(layers: Mapping[str, int]) -> dict[str, float]:
    """Share of the layers in each type that is known, in [0, 1]; empty when none is."""
    known = {kind: count for kind, count in layers.items() if kind != "unknown"}
    return {kind: count / sum(known.values()) for kind, count in known.items()}


def precision_proof(
    trt: ModuleType, plan: Path, batch: int, mac_shares: Mapping[str, float] | None
) -> PrecisionProof:
    """What the passport says in proof of its precision: the engine's own layers where they can be read.

    batch:      within the profile; without it the inspector gives no types of a dynamic shape
    mac_shares: share of the graph's MACs in each type
    """
    try:
        every, heavy = layer_types(read_inspector(trt, plan, batch))
    except (ExportError, ProviderError) as error:
        return PrecisionProof(mac_shares, None, None, str(error))
    shares = shares_of(heavy)
    note = None if shares else "the type of no layer that multiplies matrices is known"
    return PrecisionProof(mac_shares, every, shares, note, heavy)


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
    """The type, in whichever field it stands; of a shape not set it is 'N/A due to dynamic shapes'."""
    if not isinstance(tensor, dict):
        return "unknown"
    for field in ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format"):
        for name, pattern in _TYPES:
            if re.search(pattern, str(tensor.get(field, "")), re.IGNORECASE):
                return name
    return "unknown"
