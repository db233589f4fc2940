"""Copies among the images of a data folder: with the same bytes, and with the same picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vl2v_deploy.data.content import Content
from vl2v_deploy.data.domain_set import DomainSet, Sample, evaluation_samples
from vl2v_deploy.data.layout import Found, Layout
from vl2v_deploy.data.looks import first_same_picture, looks_of
from vl2v_deploy.names import shown

Pair = tuple[Sample, Sample]


def images_with_copies(read: Mapping[Found, Content]) -> int:
    """How many images have bytes that another one has, too."""
    return sum(len(images) for images in _by_content(read).values() if len(images) > 1)


def two_label_problems(read: Mapping[Found, Content], layout: Layout) -> dict[Path, str]:
    """The images whose bytes an image of another class has; for each, which one that is."""
    problems = {}
    for images in _by_content(read).values():
        for image in images:
            other = next((other for other in images if other.label != image.label), None)
            if other is not None:
                problems[image.path] = (
                    f"is {layout.classes[image.label]}, and {shown(layout.name(other.path))} with the same "
                    f"bytes is {layout.classes[other.label]}; remove the wrong one"
                )
    return problems


def leaking_samples(domain_set: DomainSet, target: str) -> tuple[Sample, ...]:
    """Images of source domains whose bytes are those of an image that is held out from what they are for.

    A training image is for training: it must be no image that accuracy is measured on, and no val image. A
    val image is for selection: it must be no image that accuracy is measured on. With target `each` none is
    known yet.
    """
    if target == "each":
        return ()
    sources = domain_set.sources(target)
    val = domain_set.select(sources, "val")
    of_val = {sample.sha256 for sample in val}
    # With DomainBed's protocol a source's accuracy is measured on its val images.
    of_test = {sample.sha256 for sample in set(_measured(domain_set, target)).difference(val)}
    held_out_from = {"train": of_test | of_val, "val": of_test, "test": set[str]()}
    return tuple(
        sample
        for sample in domain_set.samples
        if sample.domain in sources and sample.sha256 in held_out_from[sample.split]
    )


def near_copies(domain_set: DomainSet, target: str) -> tuple[Pair, ...]:
    """The training images that show the same picture as a held-out image, each with the first such image.

    Held out are the images that accuracy is measured on and the sources' val images. Images with the same
    bytes are no near copies. They are reported and not left out: that two files show the same picture is no
    proof (see data.looks).
    """
    sources = domain_set.sources(target)
    held_out = {sample.sha256: sample for sample in domain_set.select(sources, "val")}
    held_out |= {sample.sha256: sample for sample in _measured(domain_set, target)}
    train = [s for s in domain_set.select(sources, "train") if s.sha256 not in held_out]
    others = list(held_out.values())
    looks = looks_of({sample.sha256: sample.path for sample in (*train, *others)})
    found = first_same_picture([looks[s.sha256] for s in train], [looks[s.sha256] for s in others])
    return tuple((sample, others[row]) for sample, row in zip(train, found, strict=True) if row is not None)


def _measured(domain_set: DomainSet, target: str) -> list[Sample]:
    return [
        sample for domain in domain_set.domains for sample in evaluation_samples(domain_set, domain, target)
    ]


def _by_content(read: Mapping[Found, Content]) -> dict[str, list[Found]]:
    """The usable images of each content."""
    found: dict[str, list[Found]] = {}
    for image, content in read.items():
        if not content.problem:
            found.setdefault(content.sha256, []).append(image)
    return found
