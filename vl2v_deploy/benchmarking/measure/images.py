"""The images that a bundle is measured on: those that its run was evaluated on, and source validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vl2v_deploy.benchmarking.schema import DomainImages, ImageSet
from vl2v_deploy.client import Bundle
from vl2v_deploy.client.onnx_file import without_ood
from vl2v_deploy.data.copies import near_copies
from vl2v_deploy.data.domains import DomainSet, Sample, evaluation_samples, load_domains, relocated, spread
from vl2v_deploy.data.notices import folder_notices, leak_notices
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.errors import BenchmarkError
from vl2v_deploy.names import shown
from vl2v_deploy.recipe import NO_TARGET, Recipe

# Too many for the caches of any engine, few enough to hold as tensors.
TIMED_IMAGES = 64
ClassPrompts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Images:
    """The images that a bundle is measured on.

    samples:    of each domain, those for accuracy
    validation: of each source domain that has any, those that a cascade is chosen on; none without a cascade
    record:     the same, as the report has it
    """

    domain_set: DomainSet
    samples: dict[str, tuple[Sample, ...]]
    validation: dict[str, tuple[Sample, ...]]
    record: ImageSet

    def without_validation(self) -> Images:
        """The same without what only a cascade needs."""
        return replace(self, validation={}, record=self.record.model_copy(update={"validation": {}}))

    def timed_paths(self) -> list[str]:
        """The images that engines are timed on: some of every domain and class, shuffled.

        So that slow engines, which process fewer of them, see the same mix of domains.
        """
        everything = [sample for samples in self.samples.values() for sample in samples]
        chosen = [str(sample.path.resolve()) for sample in spread(everything, TIMED_IMAGES)]
        return [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]


def load_images(
    bundle: Bundle,
    recipe: Recipe,
    root: Path | None,
    *,
    skip_bad: bool,
    max_images: int | None,
    validation: bool = False,
) -> Images:
    """The images of the bundle's recipe.

    root:       where they are now; None = where the recipe says
    skip_bad:   go on without images that do not decode
    max_images: the most of a domain; None = all
    validation: the source validation images too

    Raises DataError and BadImagesError for data that cannot be used, BenchmarkError for other classes.
    """
    target = target_of(bundle, recipe)
    validation = validation and target != NO_TARGET
    data = relocated(recipe.data.model_copy(update={"target": target}), root)
    domain_set = load_domains(data, skip_bad=skip_bad)
    if domain_set.classes != bundle.classes:
        raise BenchmarkError(
            f"{domain_set.root}: expected the bundle's classes {', '.join(bundle.classes)}; "
            f"got {', '.join(domain_set.classes)}; name the right images with --data"
        )
    judged_by = domain_judged_by(target, domain_set.domains)
    full = {domain: evaluation_samples(domain_set, domain, target) for domain in domain_set.domains}
    sources = domain_set.sources(target) if validation else ()
    selected = {domain: domain_set.select({domain}, "val") for domain in sources}
    full_validation = {domain: found for domain, found in selected.items() if found}  # small ones have none
    samples, chosen = (
        {domain: spread(everything, max_images) for domain, everything in one.items()}
        for one in (full, full_validation)
    )
    record = ImageSet(
        root=data.root,
        target=judged_by,
        domains=_records(domain_set, target, full, samples),
        skipped=list(domain_set.skipped),
        notices=[
            *folder_notices(domain_set),
            *leak_notices(domain_set, target, near_copies(domain_set, target)),
        ],
        validation=_records(domain_set, target, full_validation, chosen),
        ood_unknown=without_ood(len(domain_set.domains)) if target == NO_TARGET else None,
    )
    return Images(domain_set, samples, chosen, record)


def _records(
    domain_set: DomainSet,
    target: str,
    full: Mapping[str, Sequence[Sample]],
    chosen: Mapping[str, Sequence[Sample]],
) -> dict[str, DomainImages]:
    return {
        domain: DomainImages(
            role="target" if domain == target else "source",
            of=len(full[domain]),
            names=[shown(domain_set.name(sample)) for sample in samples],
            labels=[sample.label for sample in samples],
            groups=[shown(sample.group) for sample in samples],
        )
        for domain, samples in chosen.items()
    }


def target_of(bundle: Bundle, recipe: Recipe) -> str:
    """The domain that was kept unseen, or "none": the manifest knows, as a recipe may say 'each'."""
    recorded = bundle.manifest.accuracy
    target = recorded.target if recorded else recipe.data.target
    if target == "each":
        raise BenchmarkError(
            "manifest.json: accuracy.target is missing, and data.target of recipe.yaml is 'each': "
            "which domain was unseen is not known; export the run again"
        )
    return target


def domain_judged_by(target: str, domains: Sequence[str]) -> str:
    """The domain by whose images engines are judged: the target, or the only one where none was kept unseen.

    Raises BenchmarkError where there are several and none is the target.

    >>> domain_judged_by("photo", ["ink", "photo"]), domain_judged_by("none", ["all"])
    ('photo', 'all')
    """
    if target != NO_TARGET:
        return target
    if len(domains) > 1:
        raise BenchmarkError(
            "this student has no target domain (data.target: none) and several sources, none of which "
            "engines could be judged by; distill with data.target set to one of them, or give all images one "
            "domain"
        )
    return domains[0]


def prompts_of(bundle: Bundle, recipe: Recipe, domains: Sequence[str]) -> ClassPrompts:
    """The texts of each class, as the student was distilled with them."""
    target = target_of(bundle, recipe)
    return class_prompts(recipe.prompts, recipe.data, bundle.classes, tuple(domains), target)
