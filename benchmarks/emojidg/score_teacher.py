"""Scores the assembled teacher on EmojiDG: zero-shot accuracy per domain, and a linear probe beside it.

    python -m benchmarks.emojidg.score_teacher

The teacher is loaded through open_clip's `local-dir:` path, so what is measured is what users get.
"""

import csv
import importlib.metadata
import io
import json
import platform
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from benchmarks.emojidg.build import ARCHIVE
from vl2v_deploy.models.builtin import TEACHER_BACKBONE, assemble_teacher, efficientnet_lite_state

TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a drawing of a {}",
    "an emoji of a {}",
    "an icon of a {}",
    "a cartoon of a {}",
    "a picture of a {}",
    "a symbol of a {}",
    "a black and white icon of a {}",
)
BATCH = 128
PACKAGES = ("torch", "timm", "open_clip_torch", "transformers", "safetensors", "numpy", "pillow", "resvg_py")


@dataclass(frozen=True)
class Picture:
    """One EmojiDG image."""

    domain: str
    category: str
    split: str
    image: Image.Image


def read_pictures(archive: Path = ARCHIVE) -> list[Picture]:
    """All images of EmojiDG, in the order of groups.csv."""
    with zipfile.ZipFile(archive) as opened:
        rows = csv.DictReader(io.StringIO(opened.read("emojidg/groups.csv").decode()))
        pictures = []
        for row in rows:
            domain, category, _ = row["image"].split("/")
            image = Image.open(io.BytesIO(opened.read(f"emojidg/{row['image']}"))).convert("RGB")
            pictures.append(Picture(domain, category, row["split"], image))
    return pictures


@torch.inference_mode()
def zero_shot_classifier(model: Any, tokenizer: Any, classes: Sequence[str]) -> Tensor:
    """(K, D) L2-normalised: each template's embedding normalised, averaged, normalised again."""
    rows = []
    for name in classes:
        texts = tokenizer([template.format(name.replace("_", " ")) for template in TEMPLATES])
        rows.append(F.normalize(model.encode_text(texts), dim=-1).mean(0))
    return F.normalize(torch.stack(rows), dim=-1)


@torch.inference_mode()
def embed(encode: Callable[[Tensor], Tensor], preprocess: Any, pictures: Sequence[Picture]) -> Tensor:
    """(N, D): `encode` of every preprocessed picture."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        parts.append(encode(torch.stack([preprocess(p.image) for p in pictures[start : start + BATCH]])))
    return torch.cat(parts)


def linear_probe(features: npt.NDArray[np.float32], pictures: Sequence[Picture]) -> dict[str, float]:
    """Accuracy on each domain's test images of a classifier fitted on the other domains' train images."""
    labels = np.array([p.category for p in pictures])
    domains = np.array([p.domain for p in pictures])
    splits = np.array([p.split for p in pictures])
    scores = {}
    for domain in sorted(set(domains)):
        fit, test = (domains != domain) & (splits == "train"), (domains == domain) & (splits == "test")
        probe = LogisticRegression(C=10, max_iter=500, tol=1e-3).fit(features[fit], labels[fit])
        scores[domain] = round(float(probe.score(features[test], labels[test])), 4)
    return scores


def score_teacher() -> dict[str, Any]:
    """Record of the teacher's accuracies, and of the versions they were measured with."""
    pictures = read_pictures()
    classes = sorted({p.category for p in pictures})
    with tempfile.TemporaryDirectory() as cache:
        name = f"local-dir:{assemble_teacher(Path(cache))}"
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    classifier = zero_shot_classifier(model, tokenizer, classes)
    raw = timm.create_model(TEACHER_BACKBONE, num_classes=1000)
    raw.load_state_dict(efficientnet_lite_state(TEACHER_BACKBONE))
    raw.reset_classifier(0)
    raw.eval()
    # the probes run on unit-length features: one regularisation fits both
    imagenet = F.normalize(embed(raw, preprocess, pictures), dim=-1).numpy()
    teacher = F.normalize(embed(model.encode_image, preprocess, pictures), dim=-1)
    predicted = (teacher @ classifier.T).argmax(1).tolist()
    hits: dict[tuple[str, str], list[bool]] = {}
    for picture, index in zip(pictures, predicted, strict=True):
        if picture.split == "test":
            hits.setdefault(("domain", picture.domain), []).append(classes[index] == picture.category)
            hits.setdefault(("class", picture.category), []).append(classes[index] == picture.category)
    return {
        "templates": list(TEMPLATES),
        "logit_scale": round(model.logit_scale.exp().item(), 3),
        "zero_shot_test_accuracy": _means(hits, "domain"),
        "zero_shot_test_accuracy_by_class": _means(hits, "class"),
        "test_images_per_domain": {name: len(hit) for (key, name), hit in hits.items() if key == "domain"},
        "linear_probe_imagenet_test_accuracy": linear_probe(imagenet, pictures),
        "linear_probe_teacher_test_accuracy": linear_probe(teacher.numpy(), pictures),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _means(hits: dict[tuple[str, str], list[bool]], key: str) -> dict[str, float]:
    return {name: round(sum(hit) / len(hit), 4) for (kind, name), hit in sorted(hits.items()) if kind == key}


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(json.dumps(score_teacher(), indent=2))
