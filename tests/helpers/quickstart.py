"""The README's own commands on a part of EmojiDG, with real weights: one student for many tests."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.emojidg import GROUPS, emojidg_root

ROOT = Path(__file__).parents[2]
# onnxruntime-web, as npm leaves it
RUNTIME = ROOT / "tests/web/node_modules/onnxruntime-web/dist"
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
PART = {"train": 6, "val": 2, "test": 4}  # images of each domain and class
FEWER_STEPS = ["--set", "distill.steps=25", "--set", "distill.batch_per_domain=8"]
# Of so few validation images a single one is more than the half point that int8 may cost.
FEWER_IMAGES = ["--calibration-images", "32", "--max-accuracy-drop", "100"]
# One more than the README's, for tests of bundles.
PRECISIONS = ["--precision", "fp32,fp16,int8"]
# Every part of the README's scenario, at the least that is measured at all.
SHORTER = {
    "threads": [1],
    "batches": [1, 2],
    "rounds": 2,
    "samples_per_round": 10,
    "seconds": 1,
    "max_images": 24,
    "single_stream": {"queries": 20, "seconds": 0.2},
    "offline": {"seconds": 0.2},
    "server": {"seconds": 0.2, "rates": 1},
}


def blocks(document: str, language: str) -> list[str]:
    """A document's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENTS[document], flags=re.DOTALL)


def readme_path() -> list[list[str]]:
    """The commands from a recipe to a report, as the README gives them, without `vl2v-deploy`."""
    [path] = [
        block
        for block in blocks("README.md", "sh")
        if block.startswith("vl2v-deploy distill recipes/quickstart.yaml")
    ]
    return [shlex.split(line, comments=True)[1:] for line in path.replace("\\\n", " ").splitlines()]


def part_of_emojidg(folder: Path) -> Path:
    """EmojiDG with the first images of each domain, class and split: the same concepts in each domain."""
    with (emojidg_root() / GROUPS).open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))

    def cell(row: dict[str, str]) -> tuple[str, ...]:
        return *row["image"].split("/")[:2], row["split"]

    kept = [
        row
        for (_, _, split), rows_of in groupby(sorted(rows, key=lambda row: (cell(row), row["image"])), cell)
        for row in list(rows_of)[: PART[split]]
    ]
    for row in kept:
        (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(emojidg_root() / row["image"], folder / row["image"])
    with (folder / GROUPS).open("w", encoding="ascii", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    return folder


def shorter_scenario(scenario: Path) -> str:
    """The scenario in YAML with the numbers of SHORTER, engines and parts as they are."""
    whole = yaml.safe_load(scenario.read_text(encoding="utf-8"))
    for name, value in SHORTER.items():
        whole[name] = {**whole[name], **value} if isinstance(value, dict) else value
    return yaml.safe_dump(whole)


def run_readme_path(folder: Path, more: dict[str, list[str]]) -> None:
    """Run the commands in a folder that holds recipes/ and benchmarks/, as a clone does.

    more: options of a command besides the README's
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        for command in readme_path():
            result = CliRunner().invoke(cli, [*command, *more.get(command[0], [])])
            assert result.exit_code == 0, (command, result.output, result.exception)


def make_quickstart(folder: Path) -> None:
    """The whole path in small: runs/, bundles/ and reports/ as the README says, and the data/ that it saw.

    Where npm has been there is the student's web page too, site/, with its fp32 and int8 files.
    """
    data = part_of_emojidg(folder / "data")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    scenario = Path("benchmarks/scenarios/cpu_quick.yaml")
    (folder / scenario).parent.mkdir(parents=True)
    (folder / scenario).write_text(shorter_scenario(ROOT / scenario), encoding="utf-8")
    smaller = ["--set", f"data.root={data}"]
    page = ["--web", "site", "--web-runtime", str(RUNTIME)] if RUNTIME.is_dir() else []
    export = [*PRECISIONS, *FEWER_IMAGES, *page]
    run_readme_path(folder, {"distill": [*FEWER_STEPS, *smaller], "export": export})
