"""The product of uint8 activations and int8 weights as x86 processors without VNNI compute it, in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.client.student import open_session

WINDOWS = 48  # positions of a convolution that are looked at


def saturating_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right with the products of each two neighbours along K added in saturating 16 bits.

    left:  uint8 (M, K)
    right: int8 (K, N)

    >>> saturating_product(np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)).item()
    32767
    """
    odd = left.shape[1] % 2
    left, right = np.pad(left, ((0, 0), (0, odd))), np.pad(right, ((0, odd), (0, 0)))
    total = np.zeros((len(left), right.shape[1]), np.int64)
    for k in range(0, left.shape[1], 2):
        pair = left[:, k : k + 2].astype(np.int64) @ right[k : k + 2].astype(np.int64)
        total += pair.clip(-(2**15), 2**15 - 1)
    return total


def exact_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right in integers that hold it."""
    return np.asarray(left.astype(np.int64) @ right.astype(np.int64))


def products(model: onnx.ModelProto, images: Pixels) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What each layer with weights of an int8 graph multiplies on these images, as kernels lay it out.

    A convolution comes in both orders that kernels use: taps, then input channels; and the same with the
    input channels of each tap padded to an even number. Depthwise ones are left out: no kernel multiplies so.
    Yields the layer's name, uint8 (M, K), int8 (K, N).
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    maker = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    layers = [node for node in layers if _stored_weight(node, maker, stored) is not None]
    inputs = {node.name: maker[node.input[0]].input[0] for node in layers}
    types = {maker[node.input[0]].input[0]: stored[maker[node.input[0]].input[2]].dtype for node in layers}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    for name, dtype in types.items():
        onnx_type = helper.np_dtype_to_tensor_dtype(dtype)
        shown.graph.output.append(helper.make_tensor_value_info(name, onnx_type, None))
    session = open_session(shown.SerializeToString(), exact_int8=True)
    values = dict(zip(types, session.run(list(types), {"images": images}), strict=True))
    for name, value in values.items():
        if value.dtype == np.int8:  # kernels shift it, since only one operand may have a sign
            values[name] = (value.astype(np.int16) + 128).astype(np.uint8)
    for node in layers:
        weight = _stored_weight(node, maker, stored)
        assert weight is not None
        for left, right in _matrices(node, values[inputs[node.name]], weight):
            yield node.name, left, right


def _stored_weight(
    node: NodeProto, maker: dict[str, NodeProto], stored: dict[str, np.ndarray]
) -> np.ndarray | None:
    dequantize = maker.get(node.input[1])
    return stored.get(dequantize.input[0]) if dequantize is not None else None


def _matrices(
    node: NodeProto, values: np.ndarray, weight: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "Conv":
        yield values.reshape(-1, values.shape[-1]), weight.T if attributes.get("transB") else weight
        return
    groups, (channels, *kernel) = attributes.get("group", 1), weight.shape[1:]
    if groups > 1 and channels == 1 and len(weight) == groups:
        return
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(values, ((0, 0), (0, 0), *((size // 2, size // 2) for size in kernel))), kernel, axis=(2, 3)
    )  # (B, C, H, W, kh, kw)
    windows = windows.transpose(0, 2, 3, 4, 5, 1).reshape(
        -1, np.prod(kernel), values.shape[1]
    )  # (M, taps, C)
    windows = windows[:: max(1, len(windows) // WINDOWS)]
    taps = weight.transpose(2, 3, 1, 0).reshape(-1, channels, len(weight))  # (taps, C / groups, O)
    outputs = len(weight) // groups
    for group in range(groups):
        left = windows[:, :, group * channels : (group + 1) * channels]
        right = taps[:, :, group * outputs : (group + 1) * outputs]
        for even in {0, channels % 2}:
            padded = np.pad(left, ((0, 0), (0, 0), (0, even))), np.pad(right, ((0, 0), (0, even), (0, 0)))
            yield padded[0].reshape(len(left), -1), padded[1].reshape(-1, outputs)
