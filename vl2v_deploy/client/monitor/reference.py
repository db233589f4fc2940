"""reference.npz of a bundle: how the student answered source validation, which a Monitor compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats as Floats32
from vl2v_deploy.client.answers import softmax
from vl2v_deploy.client.arrays import arrays_of
from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.manifest import ReferenceAnswers
from vl2v_deploy.client.monitor.betting import Counts, Floats
from vl2v_deploy.client.monitor.design_effect import design_effects
from vl2v_deploy.client.monitor.scores import (
    BINS,
    DIRECTIONS,
    Basis,
    confidence_bins,
    counts_of,
    embedding_bins,
    event_bins,
)
from vl2v_deploy.errors import BundleError

FILE = "reference.npz"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BASIS = ("mean", "directions", "scale", "distance")
_COUNTED = ("embedding", "confidence", "events")


@dataclass(frozen=True)
class Reference:
    """How many images of source validation are in each bin, through one file of the bundle.

    basis:      what embeddings are measured against
    embedding:  (min(P, 8) + 1, BINS)
    confidence: (1, BINS); None after `relabel`, as these are not the answers of the new classes
    events:     (K + 1, 2), of each class and of abstaining; None after `relabel`
    effects:    by these names the design effect of each of their scores (see `design_effect`), >= 1; those
                that are missing are 1
    """

    basis: Basis
    embedding: Counts
    confidence: Counts | None
    events: Counts | None
    effects: Mapping[str, Floats] = field(default_factory=dict)

    def worth(self, name: str) -> Floats | None:
        """The counts of that name as independent images; None where there are none."""
        counts: Counts | None = getattr(self, name)
        if counts is None:
            return None
        return counts / self.effects.get(name, np.ones(len(counts)))[:, None]


def reference_of(
    logits: Floats32,
    embedding: Floats32,
    abstain_below: float,
    basis: Basis,
    labels: npt.NDArray[np.int64],
    groups: Sequence[str],
) -> Reference:
    """The reference that answers to V images of source validation make.

    logits:        (V, K)
    embedding:     (V, D)
    abstain_below: confidence under which the student abstains; 0 = it never does
    labels:        (V,); groups: V names, one for images that may depend on each other
    """
    probability = softmax(logits).max(1)
    bins = {
        "embedding": embedding_bins(embedding, basis),
        "confidence": confidence_bins(probability),
        "events": event_bins(logits.argmax(1), ~(probability >= abstain_below), logits.shape[1]),
    }
    return Reference(
        basis=basis,
        embedding=counts_of(bins["embedding"], BINS),
        confidence=counts_of(bins["confidence"], BINS),
        events=counts_of(bins["events"], 2),
        effects={name: design_effects(of, labels, groups) for name, of in bins.items()},
    )


def reference_answers_of(logits: Floats32, abstain_below: float) -> ReferenceAnswers:
    """The same in the manifest's words, for people."""
    probability = softmax(logits).max(1)
    shares = np.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)
    return ReferenceAnswers(
        confidence_quantiles={f"{q:g}": float(np.quantile(probability, q)) for q in QUANTILES},
        class_shares=tuple(shares.tolist()),
        abstained=float((~(probability >= abstain_below)).mean()),
    )


def write_reference(folder: Path, references: Mapping[str, Reference]) -> None:
    """reference.npz, of references by precision that share a basis."""
    basis = next(iter(references.values())).basis
    arrays: dict[str, npt.NDArray[np.generic]] = {
        name: getattr(basis, name).astype(np.float32) for name in _BASIS
    }
    for precision, reference in references.items():
        for name in _COUNTED:
            if (counts := getattr(reference, name)) is not None:
                arrays[f"{name}_{precision}"] = counts.astype(np.int32)
                if (effect := reference.effects.get(name)) is not None and (effect > 1.0).any():
                    arrays[f"effect_{name}_{precision}"] = effect.astype(np.float32)
    np.savez_compressed(folder / FILE, allow_pickle=False, **arrays)


def load_reference(bundle: Bundle, precision: str) -> Reference:
    """The reference of one of the bundle's files.

    Raises BundleError when the bundle has none, or its arrays are not those of its classes and embedding.
    """
    facts = bundle.manifest.reference
    bundle.file(precision)  # an unknown precision is refused by its name
    if facts is None or precision not in facts.precisions:
        raise BundleError(
            f"{bundle.source}: holds no reference statistics of source validation in {precision}, which a "
            "Monitor compares with: export the run again with: vl2v-deploy export RUN"
        )
    path = bundle.path / FILE
    if FILE not in bundle.manifest.files:
        raise BundleError(f"{path}: is not listed in the manifest: refused; export the run again")
    try:
        arrays = arrays_of(path)
        basis = Basis(*(arrays[name].astype(np.float64) for name in _BASIS))
        reference = Reference(
            basis=basis,
            embedding=arrays[f"embedding_{precision}"].astype(np.int64),
            confidence=_optional(arrays, f"confidence_{precision}"),
            events=_optional(arrays, f"events_{precision}"),
            effects={
                name: arrays[f"effect_{name}_{precision}"].astype(np.float64)
                for name in _COUNTED
                if f"effect_{name}_{precision}" in arrays
            },
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: is not a bundle's reference: {error}; export the run again") from error
    _check_shapes(reference, bundle, path)
    return reference


def _optional(arrays: Mapping[str, npt.NDArray[np.generic]], name: str) -> Counts | None:
    return arrays[name].astype(np.int64) if name in arrays else None


def _check_shapes(reference: Reference, bundle: Bundle, path: Path) -> None:
    basis, dim = reference.basis, bundle.embedding_dim
    directions = basis.directions.shape[0] if basis.directions.ndim else 0
    expected = {
        "mean": (basis.mean.shape, (dim,)),
        "directions": (basis.directions.shape, (directions, dim)),
        "scale": (basis.scale.shape, (directions,)),
        "distance": (basis.distance.shape, (2,)),
        "embedding": (reference.embedding.shape, (min(directions, DIRECTIONS) + 1, BINS)),
    }
    if reference.confidence is not None:
        expected["confidence"] = (reference.confidence.shape, (1, BINS))
    if reference.events is not None:
        expected["events"] = (reference.events.shape, (len(bundle.classes) + 1, 2))
    for name, effect in reference.effects.items():
        counts = getattr(reference, name)
        expected[f"effect_{name}"] = (effect.shape, (0 if counts is None else len(counts),))
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise BundleError(f"{path}: {name}: expected shape {wanted}, got {found}; export the run again")
    for name, effect in reference.effects.items():
        if not (np.isfinite(effect).all() and (effect >= 1.0).all()):
            raise BundleError(f"{path}: effect_{name}: expected at least 1 each; export the run again")
