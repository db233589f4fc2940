"""Made-up answers to pictures of noise: what the page of `look` is tested on without a student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from tests.helpers.run_folders import DOMAINS
from vl2v_deploy.bulk.images import Image
from vl2v_deploy.client.images import TRUSTED
from vl2v_deploy.looking.answers import NOBODY, Answers, Look, Subject
from vl2v_deploy.recipe import recipe_from_tree

CLASSES = ("cat", "dog", "house", "kite", "lamp")
TREE = {
    "data": {"root": "pictures", "target": "photo"},
    "teacher": {"model": "ViT-B-16", "pretrained": "openai"},
    "student": {"backbone": "vit_small_patch16_224"},
}


def made_up_look(
    folder: Path | None = None,
    *,
    count: int,
    classes: tuple[str, ...] = CLASSES,
    domains: tuple[str, ...] = ("photo", *DOMAINS[:2]),
    labelled: bool = True,
    teacher: bool = True,
    wrong_class: int | None = None,
    lonely_class: int | None = None,
    side_px: int = 96,
    note: str = "Two answers of the teacher are missing.",
) -> Look:
    """Answers that are right three times in four; the teacher has not answered the first two images.

    folder:       where pictures of noise are written; None = there are none
    wrong_class:  is never answered right
    lonely_class: has one image, which is answered wrong
    """
    rng = np.random.default_rng(0)
    label = np.arange(count) % len(classes)
    if lonely_class is not None:
        label = np.where(label == lonely_class, 0, label)
        label[7] = lonely_class
    index = np.where(rng.random(count) < 0.75, label, (label + 1) % len(classes))
    for always_wrong in (wrong_class, lonely_class):
        if always_wrong is not None:
            index = np.where(label == always_wrong, (label + 1) % len(classes), index)
    said = np.where(rng.random(count) < 0.8, label, (label + 2) % len(classes))
    said[:2] = NOBODY
    said = said if teacher and labelled else np.full(count, NOBODY)
    confidence = rng.uniform(0.3, 1.0, count)
    domain = np.sort(np.arange(count) % len(domains)) if labelled else np.zeros(count, dtype=np.int64)
    answers = Answers(
        images=_images(folder, count, side_px) if folder else tuple(Image(f"{n}.png") for n in range(count)),
        domain=domain,
        label=label if labelled else np.full(count, NOBODY),
        index=index,
        confidence=confidence,
        second=(index + 1) % len(classes),
        second_confidence=(1 - confidence) / 2,
        abstained=confidence < 0.4,
        embedding=rng.normal(size=(count, 8)).astype(np.float32) + np.eye(8, dtype=np.float32)[index % 8] * 3,
        teacher=said,
        teacher_confidence=np.where(said == NOBODY, np.nan, 0.5),
    )
    of = {name: int((domain == number).sum()) + 5 for number, name in enumerate(domains)}
    subject = Subject(
        name="made up",
        kind="bundle",
        precision="int8",
        classes=classes,
        recipe=recipe_from_tree(TREE, source="test"),
        target=domains[0],
        target_role="target, OOD",
        logit_scale=100.0,
        size_px=32,
        draft=True,
        abstain_below=0.4,
        usual_shares=tuple([1 / len(classes)] * len(classes)),
        fingerprint=None,
        answer=lambda pixels: (_ for _ in ()).throw(AssertionError("nobody is asked")),
    )
    return Look(
        subject=subject,
        labelled=labelled,
        domains=domains if labelled else ("",),
        of=of if labelled else {"": count + 5},
        answers=answers,
        limits=TRUSTED,
        teacher="ViT-B-16@1" if teacher and labelled else None,
        notes=(note,),
        failed=() if labelled else (("broken.png", f"broken.png: {note}"),),
    )


def _images(folder: Path, count: int, side_px: int) -> tuple[Image, ...]:
    """Noise: what compresses worst."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for number in range(count):
        pixels = rng.integers(0, 256, (side_px, side_px * (1 + number % 3), 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Pillow.fromarray(pixels).save(path, compress_level=1)
        images.append(Image(str(path)))
    return tuple(images)
