"""docs/vendor.md: its commands run in their order against a served teacher, with a tiny student."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from tests.helpers.quickstart import DOCUMENTS, blocks
from tests.helpers.served import served
from tests.helpers.teachers import ColourTeacher
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.purchase.check import CHECKS
from vl2v_deploy.distillation.purchase.selection import Strategy
from vl2v_deploy.models.store.canaries import CANARIES
from vl2v_deploy.models.teacher.http.asking import TRIES

PAGE = "docs/vendor.md"
PART = "## Buy a part\n"
BUDGET_SPENT, BUDGET_USD = "exit code 3", 0.02
# The page's prices and numbers are of EmojiDG's 3,097 images; here there are 72.
SMALLER = {
    "teacher.budget.max_usd=0.6": f"teacher.budget.max_usd={BUDGET_USD}",
    "300": "8",
    "recipes/vendor.yaml": "tiny.yaml",
    "runs/vendor": "runs/tiny",
    "bundles/vendor": "bundles/tiny",
}
MORE = {"benchmark": ["--seconds", "1", "--batch", "1", "--max-images", "4"]}


def commands(text: str) -> list[tuple[list[str], int]]:
    """The commands in a part of the page that ask the recipe's teacher or need it, and their exit codes."""
    found = []
    for block in blocks(PAGE, "sh"):
        if block not in text:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            # Serving is tested with real processes elsewhere; the `init` is of a folder of the reader.
            if words[0] != "vl2v-deploy" or words[1] == "init" or words[1:3] == ["teacher", "serve"]:
                continue
            found.append(([SMALLER.get(word, word) for word in words[1:]], 3 if BUDGET_SPENT in line else 0))
    return found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(ColourTeacher(), name="colours") as url:
        yield url


@pytest.fixture
def _folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    price = {"usd_per_1k_images": 0.0, "usd_per_1k_texts": 0.0}
    recipe = write_vendor_recipe(tmp_path / "made", url, dimensions=8, **price)
    recipe.rename("tiny.yaml")


def run(part: str) -> None:
    """Runs each command of a part of the page; it ends with the exit code that the page says."""
    for command, exit_code in commands(part):
        result = CliRunner().invoke(cli, [*command, *MORE.get(command[0], [])])
        assert result.exit_code == exit_code, (command, result.output, result.exception)
        if exit_code:
            assert 0 < stats()["paid_usd"] <= BUDGET_USD


def stats() -> dict[str, float]:
    result = CliRunner().invoke(cli, ["teacher", "stats", "--json"])
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("_folder")
def test_a_whole_purchase_and_its_student() -> None:
    path, _ = DOCUMENTS[PAGE].split(PART)
    asked = [command[:2] for command, _ in commands(path)]
    assert asked[:2] == [["teacher", "check"], ["teacher", "embed"]]
    assert [command[0] for command in asked[-3:]] == ["distill", "export", "benchmark"]
    run(path)
    bought = stats()
    assert bought["embeddings"] == 72 + 3  # with the prompts of three classes
    assert bought["possibly_paid_queries"] == bought["in_flight_queries"] == 0
    report = json.loads(Path("reports/tiny/report.json").read_text())
    assert report["prices"]["usd_per_1k_queries"] == 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("_folder")
def test_a_part_that_is_bought() -> None:
    _, part = DOCUMENTS[PAGE].split(PART)
    run(part)
    trained = [
        json.loads(Path(f"runs/vendor-{number}/run.json").read_text())["teacher"]["training"]["embedded"]
        for number in (300, 600)
    ]
    assert trained == [8, 16]
    assert Path("reports/vendor/budget.png").is_file()


def test_its_lists_are_whole() -> None:
    text = DOCUMENTS[PAGE]
    section = text.split("## Check\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert tuple(rows[1:]) == CHECKS
    for strategy in get_args(Strategy):
        assert f"- `{strategy}`" in text
    assert f"{CANARIES} images and {CANARIES} texts" in text
    assert TRIES == 4 and "tried four times" in text
