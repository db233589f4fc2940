"""What a teacher's answers show about it: pure judgements, each with its reason and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vl2v_deploy.client.intervals import Z_95, wilson_interval
from vl2v_deploy.client.preprocess import to_rgb

Status = Literal["passed", "failed", "unknown"]

SAME = 0.999  # least cosine of two answers about one image
ALIKE = 0.95  # least cosine of answers about pictures that no eye tells apart
TAKEN_AS_TEXT = 0.95  # cosine of an image's answer and the answer to its data URL as a text
BLIND = 0.98  # least cosine between answers about pictures, from which on they do not depend on the picture
FEWEST_IMAGES = 30  # from which on a zero-shot accuracy that is not above chance counts as failed
PROBE_PX = 16
PROBES = 3  # pictures that are asked about beside the recipe's images


@dataclass(frozen=True)
class Verdict:
    """One check.

    why:     what was seen
    todo:    what to do; empty where it passed
    numbers: that were measured
    """

    check: str
    status: Status
    why: str
    todo: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def small_picture() -> Image.Image:
    """Few bytes of an image, which as a text cost little."""
    columns = torch.arange(PROBE_PX).expand(PROBE_PX, -1)
    left = (columns < PROBE_PX // 2)[..., None]
    plain = torch.where(left, torch.tensor([230, 120, 20]), torch.tensor([20, 70, 200])).to(torch.uint8)
    return Image.fromarray(plain.numpy())


def twins(picture: Image.Image, size_px: int) -> tuple[Image.Image, Image.Image]:
    """The picture at no more than the teacher's size, and again with every second pixel changed by 1 of 255.

    picture: of those that the teacher knows: one that was drawn for this may be so far from all it has seen
             that a change of 1 moves its answer a long way
    """
    plain = to_rgb(picture)
    plain.thumbnail((size_px, size_px))
    pixels = np.asarray(plain)
    second = np.indices(pixels.shape[:2]).sum(axis=0)[..., None] % 2 == 1
    changed = np.where(pixels < 255, pixels + 1, 254).astype(np.uint8)
    return plain, Image.fromarray(np.where(second, changed, pixels))


def judge_dimension(rows: Tensor, expected: int) -> Verdict:
    """rows: (n, D) answers."""
    got = rows.shape[-1]
    if got == expected:
        return Verdict("dimension", "passed", f"answers have {got} numbers")
    return Verdict(
        "dimension",
        "failed",
        f"answers have {got} numbers, {expected} were expected",
        f"set teacher.dimensions to {got}, or ask for the model that has {expected}",
    )


def judge_norm(rows: Tensor) -> Verdict:
    """rows: (n, D) answers, as the teacher gives them to us."""
    norms = rows.norm(dim=1)
    if bool(rows.isfinite().all()) and bool((norms - 1).abs().max() < 1e-3):
        return Verdict("norm", "passed", "answers are finite and of norm 1")
    return Verdict(
        "norm",
        "failed",
        f"norms of the answers are {norms.min():.4g} to {norms.max():.4g}",
        "the teacher has to give finite embeddings of norm 1; see vl2v_deploy.testing.check_teacher",
    )


def judge_images(probes: Tensor, as_text: Tensor | None) -> Verdict:
    """Whether images are looked at, and not read as the text of their encoding.

    probes:  (PROBES, D) answers about `small_picture` and `twins`
    as_text: (D,) answer to the first one's data URL as a text; None where nothing of the kind is sent
    """
    alike = F.cosine_similarity(probes[1], probes[2], dim=0).item()
    numbers = {"cosine_of_the_same_picture_changed_by_1": alike}
    todo = "the server embeds the base64 text of an image: use its image endpoint, field or `modality`"
    if as_text is not None:
        numbers["cosine_of_image_and_its_data_url"] = of_text = F.cosine_similarity(
            probes[0], as_text, dim=0
        ).item()
        if of_text > TAKEN_AS_TEXT:
            why = f"an image and the text of its data URL get the same answer (cosine {of_text:.3f})"
            return Verdict("images", "failed", why, todo, numbers)
    if alike < ALIKE:
        why = f"a picture and the same brighter by 1 of 255 get different answers (cosine {alike:.3f})"
        return Verdict("images", "unknown", why, f"if zero-shot fails too: {todo}", numbers)
    why = f"a change that no eye sees moves the answer by little (cosine {alike:.4f})"
    return Verdict("images", "passed", why, numbers=numbers)


def judge_pictures(image_emb: Tensor) -> Verdict | None:
    """The verdict `images` failed where answers about (N, D) different pictures are all one; else None."""
    least = (image_emb @ image_emb.T).min().item()
    if least < BLIND:
        return None
    return Verdict(
        "images",
        "failed",
        f"answers about {len(image_emb)} different images are all alike (least cosine {least:.4f})",
        "the server does not look at the picture, or reads the first letters of its encoding as a text",
        {"least_cosine_between_images": least},
    )


def judge_order(first: Tensor, again: Tensor) -> Verdict:
    """first, again: (n, D) answers about the same images, asked in another order the second time."""
    between = first @ first.T - 2 * torch.eye(len(first))
    if len(first) < 2 or between.max() > SAME:
        return Verdict(
            "order", "unknown", "too few images whose answers differ", "check more images with --images"
        )
    nearest = (again @ first.T).argmax(dim=1)
    swapped = int((nearest != torch.arange(len(first))).sum())
    if not swapped:
        return Verdict("order", "passed", f"{len(first)} images in another order: each got its own answer")
    return Verdict(
        "order",
        "failed",
        f"{swapped} of {len(first)} images got the answer about another one when asked in another order",
        "set teacher.batch_size: 1, or tell the vendor: answers in the wrong order are of no use",
    )


def judge_determinism(first: Tensor, again: Tensor) -> Verdict:
    """first, again: (n, D) answers about the same images."""
    least = F.cosine_similarity(first, again, dim=1).min().item()
    numbers = {"least_cosine": least}
    if least >= SAME:
        why = f"{len(first)} images twice: the answers agree (least cosine {least:.6f})"
        return Verdict("determinism", "passed", why, numbers=numbers)
    return Verdict(
        "determinism",
        "failed",
        f"the same image got two answers (least cosine {least:.4f}, at least {SAME} is expected)",
        "the model moved since the first answer, or is not deterministic: name a fixed version of it",
        numbers,
    )


def judge_space(image_emb: Tensor, text_emb: Tensor, labels: Tensor) -> Verdict:
    """Whether images are nearer to the texts of their own class than to those of other classes.

    image_emb: (N, D), N >= 2; text_emb: (K, D) zero-shot classifier; labels: (N,)
    """
    cosines = image_emb @ text_emb.T  # (N, K)
    own = cosines.gather(1, labels[:, None])[:, 0]
    margin = (own - (cosines.sum(dim=1) - own) / (cosines.shape[1] - 1)).double()  # (N,)
    mean, error = margin.mean().item(), margin.std().item() / len(margin) ** 0.5
    numbers = {"own_class": own.mean().item(), "margin": mean, "standard_error": error}
    why = f"cosine to the own class is {mean:+.4f} ± {Z_95 * error:.4f} above that to the other classes"
    if mean - Z_95 * error > 0:
        return Verdict("same space", "passed", why, numbers=numbers)
    status: Status = "failed" if len(labels) >= FEWEST_IMAGES else "unknown"
    todo = (
        "images and texts have to be embedded by one model with the same settings; check model, text_model "
        "and prompts"
    )
    return Verdict("same space", status, why, todo, numbers)


def judge_zero_shot(image_emb: Tensor, text_emb: Tensor, labels: Tensor) -> Verdict:
    """Zero-shot accuracy, with its 95 % interval, against always naming the most frequent class.

    image_emb: (N, D); text_emb: (K, D) zero-shot classifier; labels: (N,)
    """
    correct = int(((image_emb @ text_emb.T).argmax(dim=1) == labels).sum())
    images = len(labels)
    chance = max(1 / len(text_emb), int(labels.bincount().max()) / images)
    low, high = wilson_interval(correct, images)
    numbers = {"accuracy": correct / images, "low": low, "high": high, "chance": chance, "images": images}
    why = (
        f"{100 * correct / images:.1f} % of {images} source images (95 %: {100 * low:.1f} to "
        f"{100 * high:.1f}), chance {100 * chance:.1f} %"
    )
    if low > chance:
        return Verdict("zero-shot", "passed", why, numbers=numbers)
    status: Status = "failed" if images >= FEWEST_IMAGES else "unknown"
    todo = "other prompts may help; a retrieval model that cannot classify is no teacher of this method"
    if status == "unknown":
        todo = "too few images to tell: check more with --images"
    return Verdict("zero-shot", status, why, todo, numbers)
