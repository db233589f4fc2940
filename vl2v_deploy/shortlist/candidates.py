"""The backbones that are tried, and what timm says of each without building it."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm

from vl2v_deploy.errors import ModelError
from vl2v_deploy.names import shown
from vl2v_deploy.regular_files import open_regular

# One of each family, from the quickest to the slowest: where the time runs out, the slow ones are left out.
CANDIDATES = (
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "hgnetv2_b0",
    "tf_efficientnet_lite0",
    "starnet_s1",
    "convnext_atto",
    "regnety_008",
    "repvit_m0_9",
    "mobilenetv4_conv_medium",
    "vit_tiny_patch16_224",
    "resnet18",
    "resnet50",
)
MOST_NEAREST = 3
COLUMNS = ("model", "top1", "img_size")


def require_known(names: Sequence[str]) -> None:
    """ModelError for names that timm has no model of, each with the nearest that it has."""
    known = timm.list_models()
    wrong = []
    for name in names:
        if not timm.is_model(name):
            nearest = difflib.get_close_matches(name, known, n=MOST_NEAREST, cutoff=0.6)
            hint = f" (nearest: {', '.join(nearest)})" if nearest else ""
            wrong.append(f"{shown(name)}{hint}")
    if wrong:
        raise ModelError(f"--backbones: timm {timm.__version__} has no model {'; '.join(wrong)}")


def pretrained_tags(name: str) -> tuple[str, ...]:
    """The tags of the weights that timm can fetch for a backbone, the one that `weights: timm` means first.

    >>> pretrained_tags("tf_efficientnet_lite0")
    ('in1k',)
    """
    default = timm.models.get_pretrained_cfg(name).tag
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    return tuple(sorted(tags, key=lambda tag: (tag != default, tag)))


def imagenet_top1(file: Path) -> dict[str, tuple[float, int]]:
    """Of each model with its tag, ImageNet top-1 accuracy in percent, and the image size that it was had at.

    file: timm's results-imagenet.csv

    Raises ModelError when it is something else.
    """
    try:
        with open_regular(file) as opened:
            rows = list(csv.DictReader(opened.read().decode("utf-8").splitlines()))
        return {row["model"]: (float(row["top1"]), int(row["img_size"])) for row in rows}
    except OSError as error:
        raise ModelError(f"--accuracy {shown(file)}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ModelError(
            f"--accuracy {shown(file)}: expected timm's results-imagenet.csv, with the columns "
            f"{', '.join(COLUMNS)}"
        ) from error


def known_top1(
    name: str, tags: Sequence[str], results: Mapping[str, tuple[float, int]]
) -> tuple[float, int] | None:
    """What is known of the weights that `weights: timm` means; None where nothing is.

    >>> known_top1("resnet18", ("a1_in1k", "tv_in1k"), {"resnet18.a1_in1k": (71.5, 224)})
    (71.5, 224)
    """
    return results.get(f"{name}.{tags[0]}") if tags else None
