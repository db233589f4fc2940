"""What a user is told about a data folder: which files are not used, which images are copies of others."""

from __future__ import annotations

from collections.abc import Sequence

from vl2v_deploy.data.copies import Pair
from vl2v_deploy.data.domain_set import DomainSet
from vl2v_deploy.data.files import kinds_of
from vl2v_deploy.data.layout import ONE_DOMAIN
from vl2v_deploy.names import listed, shown

NAMED_PAIRS = 5


def folder_notices(domain_set: DomainSet) -> list[str]:
    """What holds whichever domain is the target; nothing for a clean folder."""
    notices, copies = [*domain_set.notes, *_lacking_notices(domain_set)], domain_set.copies
    if domain_set.unused:
        notices.append(
            f"{len(domain_set.unused)} file(s) are not used, as they are no images in class folders "
            f"({kinds_of(domain_set.unused)}): {listed(domain_set.unused)}."
        )
    if domain_set.skipped:
        notices.append(
            f"{len(domain_set.skipped)} image(s) that cannot be used are left out: "
            f"{listed(domain_set.skipped)}."
        )
    if copies.images:
        how = "split as any others" if copies.allowed else "kept on one side of the split"
        notices.append(f"{copies.images} images have the same bytes as another one; they are {how}.")
    if copies.two_labels:
        done = "used with both" if copies.allowed else "left out"
        notices.append(
            f"{len(copies.two_labels)} of them have copies in another class, and are {done}: "
            f"{listed(copies.two_labels)}."
        )
    return notices


def seen_layout(domain_set: DomainSet) -> str:
    """What `init` took a folder for."""
    classes = len(domain_set.classes)
    if domain_set.listed:
        images, domains = len(domain_set.samples) + len(domain_set.left_out), len(domain_set.domains)
        unknown = ", so OOD accuracy is not measured" if domains == 1 else ""
        return f"A manifest of {images} images of {classes} classes in {domains} domain(s){unknown}."
    if domain_set.domains == (ONE_DOMAIN,):
        return (
            f"{shown(domain_set.root)}: {classes} class folders without domains: all images are one domain, "
            "and OOD accuracy is not measured."
        )
    return f"{shown(domain_set.root)}: {len(domain_set.domains)} domains with {classes} classes."


def _lacking_notices(domain_set: DomainSet) -> list[str]:
    """Which classes each domain lacks."""
    total = len(domain_set.classes)
    return [
        f"{shown(domain)} has {total - len(names)} of the {total} classes, and lacks {listed(names)}: its "
        "accuracy is over the classes that it has, and no image of it is trained on for the others."
        for domain, names in domain_set.lacking.items()
    ]


def untrained_notice(domain_set: DomainSet, target: str) -> list[str]:
    """The classes of which the target alone has images."""
    sources = domain_set.sources(target)
    missing = [
        name
        for name in domain_set.classes
        if sources and all(name in domain_set.lacking.get(domain, ()) for domain in sources)
    ]
    if not missing:
        return []
    return [
        f"{target}: no source domain has an image of {listed(missing)}: the student learns them from none."
    ]


def leak_notices(domain_set: DomainSet, target: str, near: Sequence[Pair]) -> list[str]:
    """What the images of the source domains share with those that a target's accuracy is measured on."""
    notices, held_out = untrained_notice(domain_set, target), domain_set.copies.held_out
    if held_out:
        done = (
            "and are used all the same: accuracy is too high by what was learned from them"
            if domain_set.copies.allowed
            else "and are left out"
        )
        notices.append(
            f"{target}: {len(held_out)} image(s) of the sources are copies of held-out images, {done}: "
            f"{listed(held_out)}."
        )
    if near:
        pairs = listed([" = ".join(names_of(domain_set, pair)) for pair in near], NAMED_PAIRS)
        notices.append(
            f"{target}: {len(near)} training image(s) show the same picture as a held-out one, or nearly so, "
            f"and are trained on; look at: {pairs}."
        )
    return notices


def names_of(domain_set: DomainSet, pair: Pair) -> tuple[str, str]:
    """The names of a training image and of the held-out one that it is like."""
    trained, held_out = pair
    return shown(domain_set.name(trained)), shown(domain_set.name(held_out))
