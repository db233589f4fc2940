"""Weight gradients of depthwise convolutions that oneDNN has no kernel for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.train.loop import Stage, _forward
from vl2v_deploy.models import depthwise
from vl2v_deploy.models.depthwise import DepthwiseGradients, with_depthwise_gradients

CHANNELS = 8


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps for which `weight_gradient` was called."""
    shapes: list[tuple[int, ...]] = []
    original = depthwise.weight_gradient

    def noted(inputs: Tensor, *rest: object) -> Tensor:
        shapes.append(tuple(inputs.shape[2:]))
        return original(inputs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(depthwise, "weight_gradient", noted)
    return shapes


def gradients(
    convolve: Callable[[Tensor, Tensor], Tensor], size: tuple[int, int], kernel: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, and the gradients of inputs and weights, of a sum in which every output weighs differently."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, CHANNELS, *size, generator=generator)
    inputs = inputs.to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(CHANNELS, 1, *kernel, generator=generator, requires_grad=True)
    outputs = convolve(inputs, weight)
    weighed = outputs * torch.randn(outputs.shape, generator=generator)
    of_inputs, of_weight = torch.autograd.grad(weighed.sum(), (inputs, weight))
    return outputs, of_inputs, of_weight


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((3, 3), (5, 5), 1, 2),
        ((2, 2), (3, 3), 1, 1),
        ((4, 3), (5, 3), 1, (2, 1)),
        ((3, 4), (5, 5), 2, 2),
        ((4, 2), (7, 7), (3, 2), 3),
        ((1, 1), (3, 3), 1, 1),
        ((2, 2), (5, 5), 2, 4),
        ((2, 6), (3, 3), (1, 2), 1),
    ],
)
def test_gradients_are_those_of_torch(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    asked: list[tuple[int, ...]],
) -> None:
    def convolve(inputs: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(inputs, weight, None, stride, padding, groups=CHANNELS)

    outputs, of_inputs, of_weight = gradients(convolve, size, kernel)
    assert asked == []
    with DepthwiseGradients():
        same, of_inputs_too, of_weight_too = gradients(convolve, size, kernel)
    assert asked == [size]
    assert torch.equal(same, outputs) and torch.equal(of_inputs_too, of_inputs)
    assert of_weight_too.shape == of_weight.shape
    torch.testing.assert_close(of_weight_too, of_weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "convolve",
    [
        lambda x, w: F.conv2d(x, w[:, :, :3, :3], padding=1, groups=CHANNELS),  # no larger than the map
        lambda x, w: F.conv2d(x, w, torch.ones(CHANNELS), padding=2, groups=CHANNELS),
        lambda x, w: F.conv2d(x, w, padding=4, dilation=2, groups=CHANNELS),
        lambda x, w: F.conv2d(x, w, padding="same", groups=CHANNELS),
        lambda x, w: F.conv2d(x, w.expand(-1, CHANNELS, -1, -1), padding=2),
        lambda x, w: F.conv2d(x[0], w, padding=2, groups=CHANNELS),
        lambda x, w: F.conv2d(x.double(), w.double(), padding=2, groups=CHANNELS),
    ],
    ids=["small-kernel", "bias", "dilation", "same", "not-depthwise", "one-image", "double"],
)
def test_other_convolutions_are_left_to_torch(
    convolve: Callable[[Tensor, Tensor], Tensor], asked: list[tuple[int, ...]]
) -> None:
    expected = gradients(convolve, (3, 3), (5, 5))
    with DepthwiseGradients():
        found = gradients(convolve, (3, 3), (5, 5))
    assert asked == []
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_frozen_weights_and_autocast_are_left_to_torch(asked: list[tuple[int, ...]]) -> None:
    images = torch.randn(2, CHANNELS, 3, 3, requires_grad=True)
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS, bias=False)
    model = with_depthwise_gradients(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        model(images).sum().backward()
    convolution.requires_grad_(False)
    model(images).sum().backward()
    assert asked == []
    convolution.requires_grad_(True)
    model(images).sum().backward()
    assert asked == [(3, 3)]


def test_the_mode_ends_with_the_model(asked: list[tuple[int, ...]]) -> None:
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS, bias=False)
    images = torch.randn(2, CHANNELS, 3, 3)
    with_depthwise_gradients(convolution)(images).sum().backward()
    convolution(images).sum().backward()
    assert asked == [(3, 3)]


def test_training_computes_them(asked: list[tuple[int, ...]]) -> None:
    convolution: Any = nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS, bias=False)
    unused: Any = None
    stage = Stage("distill", unused, {}, unused, convolution, unused, unused, unused)
    forward, _ = _forward(stage, World())
    output: Any = forward(torch.randn(2, CHANNELS, 3, 3))
    output.sum().backward()
    assert asked == [(3, 3)]
