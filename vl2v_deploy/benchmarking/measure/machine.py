"""What the roofline needs: the peaks of the machine, and the work of one image in each graph."""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx

from vl2v_deploy.benchmarking.measure.processes import EngineProcess, EngineSpec
from vl2v_deploy.benchmarking.schema import GraphWork, MachinePeaks
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.exporting.graph.macs import count_macs
from vl2v_deploy.exporting.graph.shapes import shapes_and_types

FLOPS_PER_MAC = 2


def measure_peaks(threads: int, timeout_s: float, device: str = "cpu") -> MachinePeaks:
    """Peaks of this machine with so many threads, in a worker process like an engine's, in a few seconds.

    timeout_s: after which the measurement counts as stalled
    device:    cpu or cuda

    Raises BenchmarkError when the worker dies, stalls, has no torch, or has no such device.
    """
    settings = {"engine": "peaks", "threads": threads, "device": device, "images": []}
    with EngineProcess(EngineSpec(f"peaks of {device}", settings), timeout_s) as process:
        return MachinePeaks.model_validate(process.facts)


def count_work(onnx_path: Path) -> GraphWork:
    """FLOPs of one image through the graph, and the bytes that even perfect fusion must move.

    onnx_path: a file whose first input dimension is the batch, which counts as 1

    Raises BenchmarkError when an operator or a shape cannot be counted.
    """
    model = onnx.load(onnx_path)
    macs = count_macs(model)
    if reason := macs.unproven():
        raise BenchmarkError(f"{onnx_path}: its work cannot be counted: {reason}")
    shapes, types = shapes_and_types(model)
    read = {name for node in model.graph.node for name in node.input}
    weights = {tensor.name for tensor in model.graph.initializer}
    constants = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    # Older files list their weights among the inputs too.
    ends = {value.name for value in (*model.graph.input, *model.graph.output)} - weights

    def size_bytes(name: str) -> int:
        if name not in shapes:
            raise BenchmarkError(f"{onnx_path}: its work cannot be counted: the shape of {name!r} is unknown")
        return prod(shapes[name]) * int(onnx.helper.tensor_dtype_to_np_dtype(types[name]).itemsize)

    return GraphWork(
        flops={kind: FLOPS_PER_MAC * count for kind, count in macs.by_type.items() if count},
        weight_bytes=sum(map(size_bytes, (weights & read) | constants)),
        input_output_bytes=sum(map(size_bytes, ends)),
    )
