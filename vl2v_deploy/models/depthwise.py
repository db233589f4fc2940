"""Weight gradients of depthwise convolutions whose kernel is larger than their feature map, on a processor.

oneDNN, which computes torch's convolutions there, has no kernel for these and unfolds every channel into a
matrix. In the last blocks of an EfficientNet on images of 64 px that takes a third of a training step, and
adding up the products of the two small maps next to nothing (benchmarks/training_step.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Answer = TypeVar("Answer")


class DepthwiseGradients(TorchFunctionMode):
    """Within it, such convolutions get their weights' gradient from `weight_gradient`.

    Their outputs stay the same, to the bit, and all other convolutions are left to torch. Float32 on a
    processor alone; a GPU has kernels of its own.

    >>> import torch.nn.functional as F
    >>> images, weight = torch.ones(2, 8, 2, 2), torch.zeros(8, 1, 5, 5, requires_grad=True)
    >>> with DepthwiseGradients():
    ...     F.conv2d(images, weight, padding=2, groups=8).sum().backward()
    >>> weight.grad[0, 0, 2]
    tensor([0., 4., 8., 4., 0.])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def with_depthwise_gradients(forward: Callable[[Tensor], Answer]) -> Callable[[Tensor], Answer]:
    """The same model, called within DepthwiseGradients where what it takes is on a processor."""

    def within(inputs: Tensor) -> Answer:
        if inputs.device.type != "cpu":
            return forward(inputs)
        with DepthwiseGradients():
            return forward(inputs)

    return within


def weight_gradient(
    inputs: Tensor,
    gradient: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """The gradient of a depthwise convolution's weights, (C, 1, *kernel).

    For each position of the kernel it is the sum of input times output's gradient, over the images and over
    the outputs for which that position lies on the map and not on its padding.

    inputs:   (B, C, H, W)
    gradient: (B, C, H', W') of the outputs
    """
    x, g = inputs.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # as they lie in memory: channels last
    rows, columns = (
        [_met(tap, x.shape[side], g.shape[side], stride[side - 1], padding[side - 1]) for tap in range(taps)]
        for side, taps in enumerate(kernel, 1)
    )
    sums = inputs.new_empty(*kernel, inputs.shape[1])
    for i, (of_x, of_g) in enumerate(rows):
        for j, (across_x, across_g) in enumerate(columns):
            sums[i, j] = (x[:, of_x, across_x] * g[:, of_g, across_g]).sum((0, 1, 2))
    return sums.permute(2, 0, 1).unsqueeze(1)


def _met(tap: int, inputs: int, outputs: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Along one side: the inputs that a position of the kernel meets, and the outputs in which it does.

    Output o has input o * stride + tap - padding there.
    """
    first = max(0, -(-(padding - tap) // stride))
    end = max(first, min(outputs, (inputs - 1 + padding - tap) // stride + 1))
    begin = first * stride + tap - padding
    return slice(begin, begin + (end - first) * stride, stride), slice(first, end)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(inputs, weight, None, stride, padding, groups=inputs.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (gradient,), (inputs, weight) = gradients, ctx.saved_tensors
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs, _, _ = torch.ops.aten.convolution_backward(
                *(gradient, inputs, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0)),
                groups=inputs.shape[1],
                output_mask=(True, False, False),
            )
        kernel = (weight.shape[2], weight.shape[3])
        return of_inputs, weight_gradient(inputs, gradient, kernel, ctx.stride, ctx.padding), None, None


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """torch.conv2d."""
    depthwise = groups > 1 and weight.shape[1] == 1 and len(weight) == groups
    if not (depthwise and bias is None and _has_no_kernel(input, weight, padding, dilation)):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    result: Tensor = _Depthwise.apply(input, weight, _pair(stride), _pair(padding))
    return result


def _has_no_kernel(inputs: Tensor, weight: Tensor, padding: Any, dilation: Any) -> bool:
    """Whether oneDNN has none for the gradient of these depthwise weights.

    Source: oneDNN, conditions of its backward kernels ("kh <= ih").
    """
    return (
        weight.requires_grad
        and torch.is_grad_enabled()
        and inputs.ndim == 4
        and inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(padding, str)
        and _pair(dilation) == (1, 1)
        and (weight.shape[2] > inputs.shape[2] or weight.shape[3] > inputs.shape[3])
    )
