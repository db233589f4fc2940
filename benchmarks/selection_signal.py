"""Which signal to choose settings by: OOD points that each loses against the best variant of the trials.

    python benchmarks/selection_signal.py

Reads the records of benchmarks/unlabelled_trials.py (runs.jsonl, and more.jsonl where it is there). In each
target and seed every signal chooses one of the variants that were run there; its regret is the OOD accuracy
of the best of them less that of its choice. No signal sees a label of the target; the best variant does, so
that a regret of 0 is out of reach: two runs on 309 images differ by chance alone. Writes
selection_signal.json beside the records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click

RECORDS = Path(__file__).resolve().parent / "results" / "unlabelled_trials"
INPUTS, OUTPUT = ("runs.jsonl", "more.jsonl"), "selection_signal.json"
ANY = "any variant"  # what a choice by chance loses

Line = Mapping[str, Any]
Scores = Sequence[float]  # of each variant of a group, the higher the better


def ranks(scores: Scores) -> list[float]:
    """Of each score, 1 for the highest; equal ones share the mean of their places.

    >>> ranks([0.5, 0.9, 0.5])
    [2.5, 1.0, 2.5]
    """
    return [
        (sum(other > score for other in scores) + sum(other >= score for other in scores) + 1) / 2
        for score in scores
    ]


def _field(name: str, sign: int = 1) -> Callable[[Sequence[Line]], Scores]:
    return lambda lines: [sign * line[name] for line in lines]


def _mean_rank(lines: Sequence[Line]) -> Scores:
    places = (ranks(SIGNALS[name](lines)) for name in ("source val", "agreement"))
    return [-fmean(pair) for pair in zip(*places, strict=True)]


SIGNALS: dict[str, Callable[[Sequence[Line]], Scores]] = {
    "source val": _field("source_val"),
    "agreement": _field("held_out_agreement"),
    "cosine": _field("held_out_cosine"),
    "KL": _field("held_out_kl", -1),
    "mean rank of source val and agreement": _mean_rank,
}


def regret(scores: Scores, ood: Sequence[float]) -> float:
    """Points lost by the variant with the best score; of several that share it, their mean.

    >>> regret([1, 2, 2], [0.9, 0.7, 0.8])
    15.0
    """
    chosen = [value for score, value in zip(scores, ood, strict=True) if score == max(scores)]
    return round(100 * (max(ood) - fmean(chosen)), 9)


def correlation(scores: Scores, ood: Sequence[float]) -> float:
    """Spearman's: of the ranks; 0 where one of the two does not vary.

    >>> correlation([1, 2, 3], [0.1, 0.2, 0.9])
    1.0
    """
    x, y = ([rank - fmean(ranks(values)) for rank in ranks(values)] for values in (scores, ood))
    norm = (sum(a * a for a in x) * sum(b * b for b in y)) ** 0.5
    return sum(a * b for a, b in zip(x, y, strict=True)) / norm if norm else 0.0


def study(lines: Sequence[Line]) -> dict[str, Any]:
    """The regret of every signal in every target and seed that has several variants, and over all of them."""
    groups: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["target"], line["seed"]), []).append(line)
    rows = [_row(*key, members) for key, members in groups.items() if len(members) > 1]
    return {
        "signals": {
            name: {
                "regret": _mean([row["regret"][name] for row in rows]),
                "less_than_source_val": _mean(
                    [row["regret"]["source val"] - row["regret"][name] for row in rows]
                ),
                "best_chosen": sum(row["regret"][name] == 0 for row in rows),
                "correlation": fmean(row["correlation"].get(name, 0.0) for row in rows),
            }
            for name in (*SIGNALS, ANY)
        },
        "groups": rows,
    }


def _row(target: str, seed: int, lines: Sequence[Line]) -> dict[str, Any]:
    ood = [line["ood"] for line in lines]
    scores = {name: signal(lines) for name, signal in SIGNALS.items()}
    return {
        "target": target,
        "seed": seed,
        "variants": [line["variant"] for line in lines],
        "regret": {name: regret(of, ood) for name, of in scores.items()}
        | {ANY: 100 * (max(ood) - fmean(ood))},
        "correlation": {name: correlation(of, ood) for name, of in scores.items()},
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error over targets and seeds."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": fmean(values), "se": error}


def lines_of(folder: Path) -> dict[str, list[Line]]:
    """The records of each input that is there."""
    return {
        name: [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in INPUTS
        if (folder / name).is_file()
    }


@click.command(help=__doc__)
@click.option("--records", type=click.Path(path_type=Path, exists=True), default=RECORDS, show_default=True)
def main(records: Path) -> None:
    found = lines_of(records)
    tree: dict[str, Any] = {"records": {name: len(lines) for name, lines in found.items()}}
    tree |= study([line for lines in found.values() for line in lines])
    (records / OUTPUT).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    for name, of_signal in tree["signals"].items():
        print(
            f"{name}: {of_signal['regret']['mean']:.2f} +- {of_signal['regret']['se']:.2f} points lost, best "
            f"chosen in {of_signal['best_chosen']} of {len(tree['groups'])}, correlation "
            f"{of_signal['correlation']:+.2f}"
        )


if __name__ == "__main__":
    main()
