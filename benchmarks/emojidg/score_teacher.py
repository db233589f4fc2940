"""Scores the assembled teacher on EmojiDG: zero-shot accuracy per domain, and a linear probe beside it.

    python -m benchmarks.emojidg.score_teacher           # val concepts: what choices may be made on
    python -m benchmarks.emojidg.score_teacher --test    # once, when all is chosen: adds to the record

The teacher is loaded through open_clip's `local-dir:` path, so what is measured is what users get.
"""

import argparse
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

from benchmarks.emojidg.build import ARCHIVE, DEMO_DATA
from vl2v_deploy.models.efficientnet_lite import efficientnet_lite_state
from vl2v_deploy.models.teacher.builtin import TEACHER_BACKBONE, TEACHER_RECORD, assemble_teacher

# Those of recipes/quickstart.yaml: what users get is what is measured.
TEMPLATES = ("a photo of a {}", "an emoji of a {}", "a drawing of a {}")
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


def linear_probe(
    features: npt.NDArray[np.float32], pictures: Sequence[Picture], split: str
) -> dict[str, float]:
    """Accuracy on each domain's `split` images of a classifier fitted on the other domains' train images."""
    labels = np.array([p.category for p in pictures])
    domains = np.array([p.domain for p in pictures])
    splits = np.array([p.split for p in pictures])
    scores = {}
    for domain in sorted(set(domains)):
        fit, test = (domains != domain) & (splits == "train"), (domains == domain) & (splits == split)
        probe = LogisticRegression(C=10, max_iter=500, tol=1e-3).fit(features[fit], labels[fit])
        scores[domain] = round(float(probe.score(features[test], labels[test])), 4)
    return scores


def score_teacher(split: str) -> dict[str, Any]:
    """Record of the teacher's accuracies on EmojiDG's images of one split ("val" or "test")."""
    # images of the other side are not even embedded
    pictures = [p for p in read_pictures() if p.split in ("train", split)]
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
        if picture.split == split:
            hits.setdefault(("domain", picture.domain), []).append(classes[index] == picture.category)
            hits.setdefault(("class", picture.category), []).append(classes[index] == picture.category)
    by_domain = _means(hits, "domain")
    return {
        "zero_shot_accuracy": by_domain,
        "zero_shot_accuracy_mean": round(sum(by_domain.values()) / len(by_domain), 4),
        "zero_shot_accuracy_by_class": _means(hits, "class"),
        "images_per_domain": {name: len(hit) for (key, name), hit in hits.items() if key == "domain"},
        "linear_probe_imagenet_accuracy": linear_probe(imagenet, pictures, split),
        "linear_probe_teacher_accuracy": linear_probe(teacher.numpy(), pictures, split),
    }


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def _means(hits: dict[tuple[str, str], list[bool]], key: str) -> dict[str, float]:
    return {name: round(sum(hit) / len(hit), 4) for (kind, name), hit in sorted(hits.items()) if kind == key}


def main() -> None:
    """Prints the record of one split; that of the test split is also written into the teacher's record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--test", action="store_true", help="score the test concepts, and record it")
    options = parser.parse_args()
    torch.set_num_threads(2)
    split = "test" if options.test else "val"
    scores = score_teacher(split)
    print(json.dumps(scores, indent=2))
    if options.test:
        file = DEMO_DATA / TEACHER_RECORD
        record = json.loads(file.read_text(encoding="utf-8")) | {split: scores}
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
