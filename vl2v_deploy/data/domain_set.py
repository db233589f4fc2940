"""The images of several domains, each with its class and its side of the split."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from vl2v_deploy.data.splits import Split
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import name_below
from vl2v_deploy.recipe import NO_TARGET

Measured = Literal["test", "out", "in", "all"]  # which images of a domain accuracy is measured on


@dataclass(frozen=True)
class Sample:
    """One image file.

    label:  index of its class in DomainSet.classes
    group:  images of one group are on one side of every split; the path itself where no group was given
    split:  with DomainBed's protocol "train" is its `in`, "val" its `out`
    sha256: of the file's bytes, hexadecimal
    """

    path: Path
    domain: str
    label: int
    group: str
    split: Split
    sha256: str


@dataclass(frozen=True)
class ExactCopies:
    """Images of a data folder whose bytes another image has, too. Names are relative to its root.

    images:     how many there are
    two_labels: of them, those whose copies are of another class; left out, unless copies are allowed
    held_out:   of the source domains, those that a run would be trained or selected on and whose copy is held
                out; left out, unless copies are allowed
    allowed:    whether the recipe does
    """

    images: int
    two_labels: tuple[str, ...]
    held_out: tuple[str, ...]
    allowed: bool


NO_COPIES = ExactCopies(0, (), (), allowed=False)


@dataclass(frozen=True)
class DomainSet:
    """Every usable image of a data folder.

    domains:  folder names, in Unicode's composed form, as the classes' are
    classes:  K folder names, in the order of the logits
    samples:  sorted by domain, class, file name
    skipped:  images left out because they cannot be used, relative to root
    protocol: of the split
    unused:   files that are no images, relative to root
    copies:   images with the same bytes
    left_out: images of source domains left out as copies of held-out images
    notes:    what else a user is told about the data
    listed:   whether a manifest lists them, so that paths say nothing of domains and classes
    """

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...]
    protocol: Literal["seeded", "domainbed"]
    unused: tuple[str, ...] = ()
    copies: ExactCopies = NO_COPIES
    left_out: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    listed: bool = False

    @cached_property
    def groups_span_domains(self) -> bool:
        """Whether some group has images in more than one domain, as one emoji in several styles."""
        domains: dict[str, set[str]] = {}
        for sample in self.samples:
            domains.setdefault(sample.group, set()).add(sample.domain)
        return any(len(names) > 1 for names in domains.values())

    def select(self, domains: Collection[str], split: Split) -> tuple[Sample, ...]:
        """The samples of these domains on one side of the split."""
        return tuple(s for s in self.samples if s.domain in domains and s.split == split)

    def name(self, sample: Sample) -> str:
        """The path of an image below root, in Unicode's composed form."""
        return name_below(sample.path, self.root)

    @cached_property
    def lacking(self) -> dict[str, tuple[str, ...]]:
        """The classes of which a domain has no image, for each domain that lacks some."""
        have = {(sample.domain, sample.label) for sample in (*self.samples, *self.left_out)}
        missing = {
            domain: tuple(name for label, name in enumerate(self.classes) if (domain, label) not in have)
            for domain in self.domains
        }
        return {domain: names for domain, names in missing.items() if names}

    def folder(self, domain: str) -> Path:
        """Where a domain's images lie."""
        inside = next(sample.path for sample in self.samples if sample.domain == domain)
        return self.root / inside.relative_to(self.root).parts[0]

    def sources(self, target: str) -> tuple[str, ...]:
        """Every domain but the target."""
        return tuple(domain for domain in self.domains if domain != target)


def evaluated_split(domain_set: DomainSet, domain: str, target: str) -> Measured:
    """Which images of a domain accuracy is measured on, as a report calls them.

    DomainBed's protocol: `out` of a source domain (ID), `in` of the target (OOD). Else the test split, but
    "all" of the target where no group spans domains, as none of its images was trained on; where groups do,
    the target's other groups are among the sources' training images.
    """
    if domain_set.protocol == "domainbed":
        return "in" if domain == target else "out"
    return "all" if domain == target and not domain_set.groups_span_domains else "test"


def evaluation_samples(domain_set: DomainSet, domain: str, target: str) -> tuple[Sample, ...]:
    """The images on which accuracy in `domain` is measured; `evaluated_split` names them."""
    match evaluated_split(domain_set, domain, target):
        case "all":
            return tuple(s for s in domain_set.samples if s.domain == domain)
        case "in":
            return domain_set.select({domain}, "train")
        case "out":
            return domain_set.select({domain}, "val")
        case "test":
            return domain_set.select({domain}, "test")


def oracle_samples(domain_set: DomainSet, target: str) -> tuple[Sample, ...]:
    """The target's val split, on which an oracle selects its weights; no honest result may.

    Raises DataError when there is none.
    """
    if target == NO_TARGET:
        raise DataError(f"data.target: {NO_TARGET}: averaging: oracle selects on a target, and there is none")
    samples = domain_set.select({target}, "val")
    if not samples:
        raise DataError(f"{domain_set.root / target}: the split leaves no val image for an oracle selection")
    return samples


def spread(samples: Sequence[Sample], most: int | None) -> tuple[Sample, ...]:
    """At most `most` samples, evenly spread: sorted by domain and class, so every one keeps its share.

    most: None = all
    """
    if most is None or most >= len(samples):
        return tuple(samples)
    return tuple(samples[i * len(samples) // most] for i in range(most))


def validation_weights(samples: Sequence[Sample], mean: Literal["domains", "images"]) -> list[float]:
    """The weight of each image in a mean over source validation, as a recipe's validation_mean says; sum 1.

    mean: domains = every domain weighs the same, and each of its images the same; images = every image does
    """
    images_of = Counter(sample.domain if mean == "domains" else "" for sample in samples)
    return [
        1 / (len(images_of) * images_of[sample.domain if mean == "domains" else ""]) for sample in samples
    ]


def data_fingerprint(domain_set: DomainSet) -> str:
    """SHA-256 over every image's relative path, split and bytes: same value, same data.

    With a manifest also over what it says of each image: domain, class and group.

    The same for every target: images that a target leaves out count, too.
    """
    everything = list(domain_set.samples)
    if domain_set.left_out:
        order = {domain: place for place, domain in enumerate(domain_set.domains)}
        everything += domain_set.left_out
        everything.sort(key=lambda s: (order[s.domain], s.label, str(s.path.parent), s.path.name))
    digest = hashlib.sha256()
    for sample in everything:
        line = f"{domain_set.name(sample)}\t{sample.split}\t{sample.sha256}\n"
        if domain_set.listed:
            says = (sample.domain, domain_set.classes[sample.label], sample.group)
            line = f"{json.dumps(says)}\t{line}"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
