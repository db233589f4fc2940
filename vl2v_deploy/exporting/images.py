"""The images that export uses, by purpose.

calibration   the sources' training split: value ranges of fp16 and int8
validation    the sources' val split: temperature, abstention, calibration method, accuracy budget
held out      every domain's evaluation images: parity, and the accuracies that are reported

Nothing is chosen on held-out images, with one exception: DomainBed's protocol has only two splits, so that
with `split: domainbed` a source's accuracy is measured on the images of its validation (`chosen_on`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.client.images import TRUSTED
from vl2v_deploy.client.preprocess import Pixels, pixels_from_source
from vl2v_deploy.data.domains import (
    DomainSet,
    Sample,
    data_fingerprint,
    evaluated_split,
    evaluation_samples,
    load_domains,
    relocated,
    spread,
    validation_weights,
)
from vl2v_deploy.errors import ExportError
from vl2v_deploy.models.run_directory import Run
from vl2v_deploy.recipe import BUILTIN_DATA

Labels = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
PARITY_IMAGES = 64
VALIDATION_IMAGES = 2000
BATCH = 32


@dataclass(frozen=True)
class HeldOut:
    """The evaluation images of one domain.

    split: as a report calls them (see data.domains.evaluated_split)
    of:    how many there are; fewer are measured where a limit was given
    chosen_on: whether they are images that something was chosen on
    """

    domain: str
    is_target: bool
    chosen_on: bool
    split: str
    samples: tuple[Sample, ...]
    of: int


@dataclass(frozen=True)
class ExportImages:
    """Images of a run, by purpose.

    calibration:    uint8 (N, S, S, 3)
    validation:     uint8 (V, S, S, 3), with validation_labels (V,), validation_weights (V,), what each
                    image counts for in a mean, sum 1, and validation_groups (V)
    parity:         uint8 (P, S, S, 3) of parity_samples
    """

    size_px: int
    calibration: Pixels
    validation: Pixels
    validation_labels: Labels
    validation_weights: Weights
    validation_groups: tuple[str, ...]
    parity_samples: tuple[Sample, ...]
    parity: Pixels
    held_out: tuple[HeldOut, ...]

    def validation_accuracy(self, logits: Floats) -> float:
        """Of logits (V, K) on source validation, in [0, 1]."""
        right = logits.argmax(1) == self.validation_labels
        return float(np.average(right, weights=self.validation_weights))

    def held_out_samples(self) -> list[Sample]:
        """All of them, domain after domain."""
        return [sample for domain in self.held_out for sample in domain.samples]


def export_images(
    run: Run,
    *,
    calibration_images: int,
    max_images: int | None,
    data_root: Path | None = None,
    allow_changed: bool = False,
) -> ExportImages:
    """The images of the run's data folder; the same ones for the same run.

    calibration_images: largest number of images to calibrate on, spread over source domains and classes
    max_images:         largest number of held-out images per domain; None = all
    data_root:          where the images are now; None = as in the recipe
    allow_changed:      go on when they are not the images that the run was distilled from

    Raises ExportError when the folder is gone, or its classes or images are no longer the run's.
    """
    data = relocated(run.recipe.data, data_root)
    if data.root != BUILTIN_DATA and not Path(data.root).is_dir():
        raise ExportError(f"{data.root}: no such folder; name where the run's images are now with --data")
    target = run.record.target
    domain_set = load_domains(data.model_copy(update={"target": target}), skip_bad=True)
    if domain_set.classes != run.classes:
        raise ExportError(f"{data.root}: its classes are no longer those of {run.path}")
    if data_fingerprint(domain_set) != run.record.data.fingerprint and not allow_changed:
        # An image added since may move others to another side of the split: it would be chosen on what was
        # trained on.
        raise ExportError(
            f"{data.root}: its images or splits are no longer those that {run.path} was distilled from; "
            "name the right ones with --data, or pass --allow-changed-data to go on with these"
        )
    size_px = run.recipe.student.image_size_px
    sources = domain_set.sources(target)
    validation = spread(domain_set.select(sources, "val"), VALIDATION_IMAGES)
    held_out = tuple(_held_out(domain_set, domain, target, max_images) for domain in domain_set.domains)
    everything = [sample for domain in held_out for sample in domain.samples]
    order = np.random.default_rng(0).permutation(len(everything))[:PARITY_IMAGES]
    parity = tuple(everything[row] for row in order)
    calibration = spread(domain_set.select(sources, "train"), calibration_images)
    return ExportImages(
        size_px=size_px,
        calibration=pixels_of(calibration, size_px),
        validation=pixels_of(validation, size_px),
        validation_labels=labels_of(validation),
        validation_weights=np.array(validation_weights(validation, run.recipe.validation_mean)),
        validation_groups=tuple(sample.group for sample in validation),
        parity_samples=parity,
        parity=pixels_of(parity, size_px),
        held_out=held_out,
    )


def pixels_of(samples: Sequence[Sample], size_px: int) -> Pixels:
    """The images as the graph takes them; uint8 (N, S, S, 3)."""
    return np.concatenate(list(batches(samples, size_px)))


def batches(samples: Sequence[Sample], size_px: int) -> Iterator[Pixels]:
    """The images in batches of up to 32, decoded in threads; uint8 (B, S, S, 3)."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), BATCH):
            chunk = samples[start : start + BATCH]
            decoded = pool.map(lambda sample: pixels_from_source(sample.path, size_px, TRUSTED), chunk)
            yield np.stack(list(decoded))


def labels_of(samples: Sequence[Sample]) -> Labels:
    """(N,) class indices."""
    return np.array([sample.label for sample in samples], dtype=np.int64)


def _held_out(domain_set: DomainSet, domain: str, target: str, most: int | None) -> HeldOut:
    samples = evaluation_samples(domain_set, domain, target)
    return HeldOut(
        domain=domain,
        is_target=domain == target,
        chosen_on=domain != target and domain_set.protocol == "domainbed",
        split=evaluated_split(domain_set, domain, target),
        samples=spread(samples, most),
        of=len(samples),
    )
