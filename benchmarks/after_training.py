"""What could be made of finished students without training them again: soups, ensembles and a second head.

    python benchmarks/after_training.py RUN...

Every finished comparison is a line of benchmarks/results/after_training.jsonl; what is there is not made
again. RUN: finished runs on EmojiDG; those that differ in their seed alone make a soup and an ensemble of
seeds, those of one target and seed a soup of recipes, whose projectors come from the same Align. Every
choice is made on the sources' val images. Soup: the mean of all weights. Ensemble: the mean of the
probabilities, at as many times the cost. Second head: multinomial logistic regression on the student's own
features of the sources' training images, its probabilities mixed with the text classifier's; both with a
temperature, and the share of the head, fitted by log-likelihood.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import click
import torch
import torch.nn.functional as F
from torch import Tensor

# Started as a script, Python looks for modules in this file's own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vl2v_deploy.data.domains import DomainSet, load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.distillation.evaluate.probe import fit_linear_probe
from vl2v_deploy.distillation.evaluate.scores import TestSet, labels_of, test_set
from vl2v_deploy.distillation.features import compute_batched
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.method.confidence import fit_temperature
from vl2v_deploy.method.metrics import accuracy, expected_calibration_error
from vl2v_deploy.models.run_directory import Run, load_run
from vl2v_deploy.models.student import Student, predict_logits
from vl2v_deploy.recipe import Recipe

OUT = Path(__file__).resolve().parent / "results" / "after_training.jsonl"
SHARES = torch.linspace(0, 1, 21)  # of the second head in the mixture


@dataclass(frozen=True)
class Images:
    """The images of one target's runs: the sources' training and val images, and all test images."""

    domain_set: DomainSet
    target: str
    tested: TestSet

    @property
    def splits(self) -> dict[str, tuple[list[Path], Tensor]]:
        """Files and labels of train, val and test."""
        sources = self.domain_set.sources(self.target)
        samples = {split: self.domain_set.select(sources, split) for split in ("train", "val")}
        samples["test"] = self.tested.samples
        return {name: ([s.path for s in of], labels_of(of)) for name, of in samples.items()}

    def scores(self, probabilities: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy in and out of domain and on source val, and ECE out of domain; of (N, K) val and test."""
        val_labels, rows = self.splits["val"][1], self.tested.rows_of
        shares = self.tested.accuracy_by_domain(probabilities["test"])
        ours = rows[self.target]
        return {
            "ood": shares[self.target],
            "id": fmean(share for domain, share in shares.items() if domain != self.target),
            "source_val": accuracy(val_labels, probabilities["val"].argmax(dim=1)),
            "ood_ece": expected_calibration_error(probabilities["test"][ours], self.tested.labels[ours]),
        }


@dataclass(frozen=True)
class Outputs:
    """features, logits: of train, val and test images; (N, d_s) and (N, K)."""

    features: dict[str, Tensor]
    logits: dict[str, Tensor]

    @property
    def probabilities(self) -> dict[str, Tensor]:
        return {split: logits.softmax(dim=1) for split, logits in self.logits.items()}


def images_of(recipe: Recipe) -> Images:
    domain_set = load_domains(recipe.data)
    return Images(domain_set, recipe.data.target, test_set(domain_set, recipe.data.target))


@torch.no_grad()
def outputs_of(
    student: Student, run: Run, images: Images, splits: Sequence[str], cache: ImageCache
) -> Outputs:
    """What a student says; the run gives its image size, classifier and logit scale."""
    student = student.to(memory_format=torch.channels_last)
    features = {}
    for split in splits:
        paths, size_px = images.splits[split][0], run.recipe.student.image_size_px
        features[split] = compute_batched(
            student.features, paths, size_px, torch.device("cpu"), cache, World(), f"{run.path.name}: {split}"
        )
    logits = {
        split: predict_logits(student.output(rows), run.text_emb, run.logit_scale)
        for split, rows in features.items()
    }
    return Outputs(features, logits)


def soup(runs: Sequence[Run]) -> Student:
    """The first run's student with the mean of all runs' weights."""
    states = [run.student.state_dict() for run in runs]
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    made = load_run(runs[0].path).student
    made.load_state_dict(mean)
    return made


def second_head(outputs: Outputs, images: Images) -> dict[str, dict[str, float]]:
    """Scores of the student as it is, its text classifier, a second head, and both mixed.

    All but the first have a temperature; it and the share of the head are fitted on source val.
    """
    labels = {split: of_split[1] for split, of_split in images.splits.items()}
    head, weight_decay = fit_linear_probe(
        outputs.features["train"],
        labels["train"],
        len(images.domain_set.classes),
        outputs.features["val"],
        lambda logits: accuracy(labels["val"], logits.argmax(dim=1)),
    )
    of_head = {split: head(outputs.features[split]) for split in ("val", "test")}
    text, own = (_calibrated(logits, labels["val"]) for logits in (outputs.logits, of_head))
    nll = [
        F.nll_loss((share * own["val"] + (1 - share) * text["val"]).log(), labels["val"]) for share in SHARES
    ]
    share = SHARES[int(torch.stack(nll).argmin())]
    mixed = {split: share * own[split] + (1 - share) * text[split] for split in text}
    compared = {"student": outputs.probabilities, "text": text, "head": own, "mixed": mixed}
    scores = {name: images.scores(probabilities) for name, probabilities in compared.items()}
    scores["mixed"] |= {"share_of_head": share.item(), "weight_decay": weight_decay}
    return scores


def _calibrated(logits: Mapping[str, Tensor], val_labels: Tensor) -> dict[str, Tensor]:
    temperature = fit_temperature(logits["val"], val_labels)
    return {split: (logits[split] / temperature).softmax(dim=1) for split in ("val", "test")}


def together(runs: Sequence[Run], single: Sequence[Outputs], images: Images) -> dict[str, dict[str, float]]:
    """The mean of the runs' scores beside those of their soup and their ensemble."""
    scores = [images.scores(outputs.probabilities) for outputs in single]
    of_soup = outputs_of(soup(runs), runs[0], images, ("val", "test"), ImageCache(0))
    ensemble = {
        split: torch.stack([outputs.probabilities[split] for outputs in single]).mean(dim=0)
        for split in ("val", "test")
    }
    return {
        "student": {key: fmean(of_run[key] for of_run in scores) for key in scores[0]},
        "soup": images.scores(of_soup.probabilities),
        "ensemble": images.scores(ensemble),
    }


def groups_of(runs: Sequence[Run], key: Callable[[Recipe], str]) -> list[list[Run]]:
    """The runs that share a key, where there are several."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run.recipe), []).append(run)
    return [members for members in found.values() if len(members) > 1]


def _but_seed(recipe: Recipe) -> str:
    return recipe.model_copy(update={"seed": 0}).model_dump_json()


def _target_and_seed(recipe: Recipe) -> str:
    return f"{recipe.data.target} {recipe.seed} {recipe.align.model_dump_json()}"


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=OUT)
def main(runs: tuple[Path, ...], out: Path) -> None:
    torch.set_num_threads(1)
    loaded = [load_run(path) for path in runs]
    images = {run.record.target: images_of(run.recipe) for run in loaded}
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    done = {(line["kind"], *line["runs"]) for line in map(json.loads, lines)}
    cache, made = ImageCache(10**9), dict[Path, Outputs]()

    def outputs(run: Run) -> Outputs:
        if run.path not in made:
            splits = ("train", "val", "test")
            made[run.path] = outputs_of(run.student, run, images[run.record.target], splits, cache)
        return made[run.path]

    groups = [("second head", [run]) for run in loaded]
    groups += [("seeds", group) for group in groups_of(loaded, _but_seed)]
    groups += [("recipes", group) for group in groups_of(loaded, _target_and_seed)]
    for kind, group in groups:
        names = [run.path.name for run in group]
        if (kind, *names) in done:
            continue
        of_target = images[group[0].record.target]
        single = [outputs(run) for run in group]
        scores = (
            second_head(single[0], of_target) if kind == "second head" else together(group, single, of_target)
        )
        line = {"kind": kind, "runs": names, "target": of_target.target, **scores}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
