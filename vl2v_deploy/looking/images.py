"""The images that are looked at: those that a run was evaluated on, or a folder without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.bulk.images import Image
from vl2v_deploy.bulk.inputs import images_of, require_inputs
from vl2v_deploy.data.domains import (
    Sample,
    data_fingerprint,
    evaluated_split,
    evaluation_samples,
    load_domains,
    relocated,
    spread,
)
from vl2v_deploy.errors import DataError
from vl2v_deploy.looking.answers import Subject
from vl2v_deploy.names import listed, shown


@dataclass(frozen=True)
class LabelledImages:
    """The images on which accuracy is measured.

    domains: the target first, then the others by name
    all_domains: as the data folder has them, by which prompts are written
    samples: of `domains`, one after the other
    of:      by domain, how many there are
    notes:   what the reader must know about them
    """

    domains: tuple[str, ...]
    all_domains: tuple[str, ...]
    samples: tuple[Sample, ...]
    of: dict[str, int]
    notes: tuple[str, ...]


def labelled_images(
    subject: Subject, root: Path | None, most: int | None, *, skip_bad: bool
) -> LabelledImages:
    """The evaluation images of every domain of the student's recipe.

    root:     where the images are now; None = where the recipe says
    most:     images of a domain, spread over its classes; None = all
    skip_bad: go on without images that do not decode

    Raises DataError for a folder that cannot be used or has other classes, BadImagesError.
    """
    target = subject.target
    if target == "each":
        raise DataError(f"{subject.name}: which domain was unseen is not known; export the run again")
    data = relocated(subject.recipe.data.model_copy(update={"target": target}), root)
    domain_set = load_domains(data, skip_bad=skip_bad)
    if domain_set.classes != subject.classes:
        raise DataError(
            f"{shown(domain_set.root)}: expected the classes of {subject.name}: "
            f"{listed(subject.classes)}; got {listed(domain_set.classes)}; name the right images with "
            "--data, or look at --images without labels"
        )
    domains = tuple(sorted(domain_set.domains, key=lambda name: (name != target, name)))
    full = {domain: evaluation_samples(domain_set, domain, target) for domain in domains}
    chosen = {domain: spread(samples, most) for domain, samples in full.items()}
    notes = []
    if subject.fingerprint not in (None, data_fingerprint(domain_set)):
        notes.append(
            "These are not the images, or not the splits, that the student was distilled from: it may have "
            "been trained on some of them."
        )
    if domain_set.skipped:
        notes.append(f"Left out, as they cannot be used: {listed(domain_set.skipped)}.")
    if most is not None and any(len(full[domain]) > most for domain in domains):
        notes.append(f"At most {most:,} images of a domain are looked at, spread over its classes.")
    chosen_on = [d for d in domains if d != target and evaluated_split(domain_set, d, target) == "out"]
    if chosen_on:
        notes.append(
            "By DomainBed's split the images of source domains are those that weights were selected on."
        )
    return LabelledImages(
        domains,
        domain_set.domains,
        tuple(sample for domain in domains for sample in chosen[domain]),
        {domain: len(samples) for domain, samples in full.items()},
        tuple(notes),
    )


def unlabelled_images(words: str, most: int | None) -> tuple[tuple[Image, ...], int]:
    """The images that a folder, file, pattern, list or archive names, and how many there are in all.

    most: taken at even distances; None = all

    Raises DataError where there is none.
    """
    require_inputs([words])
    found = tuple(images_of([words]))
    if not found:
        raise DataError(f"{shown(words)}: holds no image")
    count = len(found)
    if most is None or count <= most:
        return found, count
    return tuple(found[i * count // most] for i in range(most)), count
