"""Agreement with the teacher on unlabelled images held out: what it is, what it costs, what it selects."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.distillation.test_ddp import torchrun
from tests.distillation.test_resume import same_weights
from tests.distillation.test_text_term import AskedTeacher
from tests.distillation.test_unlabelled_training import write_pool
from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.run_folders import write_run
from tests.helpers.teachers import ColourTeacher
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client.preprocess import pixels_from_source
from vl2v_deploy.data.domains import Sample, load_domains
from vl2v_deploy.data.unlabelled import load_unlabelled, split_held_out
from vl2v_deploy.distillation.evaluate.agreement import measured
from vl2v_deploy.distillation.evaluate.zero_shot import FittedScale, ZeroShotClassifier
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.purchase.ahead import embed_ahead, estimate_ahead
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.distillation.sources import open_sources
from vl2v_deploy.distillation.study.comparison import comparisons
from vl2v_deploy.distillation.study.results import load_results
from vl2v_deploy.distillation.study.selection import agreement_notes, best_settings
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.errors import DataError, RunError
from vl2v_deploy.models.record import RunRecord, read_record
from vl2v_deploy.models.record_parts.measured import Agreement
from vl2v_deploy.models.run_directory import load_run
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.recipe import Recipe, load_recipe, recipe_sha256

POOL, SHARE = 24, 0.3


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    root = make_domain_folder(folder / "data")
    rows = [f"{p.relative_to(root).as_posix()},{p.parent.name}{p.stem}" for p in sorted(root.rglob("*.png"))]
    (root / "groups.csv").write_text("\n".join(["image,group", *rows]))
    write_pool(folder / "pool", POOL)
    return tiny.write_recipe(folder, root)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def settings_with(*settings: str, pool: str = "[pool]", share: float = SHARE) -> list[str]:
    ours = [f"data.unlabelled={pool}", f"data.unlabelled_held_out={share}", "distill.unlabelled_per_step=3"]
    return [*ours, "data.split.groups=data/groups.csv", *settings]


def recipe_with(recipe_file: Path, *settings: str, pool: str = "[pool]", share: float = SHARE) -> Recipe:
    return load_recipe(recipe_file, settings_with(*settings, pool=pool, share=share))


def parts(recipe: Recipe) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """What is trained on, and what is held out."""
    kept, out = split_held_out(load_unlabelled(recipe.data), recipe.data.unlabelled_held_out)
    assert len(kept.samples) >= 5
    assert len(out.samples) >= 3
    return kept.samples, out.samples


def agreement_of(record: RunRecord) -> Agreement:
    assert record.agreement is not None
    return record.agreement


def test_agreement_on_unlabelled_images_is_that_of_the_finished_student(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe, teacher = recipe_with(recipe_file), AskedTeacher()
    kept, out = parts(recipe)
    distill_recipe(recipe, tmp_path / "run", teacher=teacher)
    record = read_record(tmp_path / "run")
    assert record.data.unlabelled is not None
    assert record.data.held_out is not None
    assert (record.data.unlabelled.images, record.data.held_out.images) == (len(kept), len(out))
    assert record.data.held_out.of_target == 0
    assert teacher.asked == record.teacher.queries == record.teacher.images

    run = load_run(tmp_path / "run")
    pixels = np.stack([pixels_from_source(sample.path, 32) for sample in out])
    with torch.no_grad():
        projected = run.student(torch.from_numpy(pixels)).projected
    assert projected is not None
    ours = torch.nn.functional.normalize(projected.double(), dim=1)
    theirs = ColourTeacher().embed_images([Image.open(sample.path) for sample in out]).double()
    texts = run.text_emb.double()
    p, q = ((run.logit_scale * rows @ texts.T).softmax(dim=1) for rows in (theirs, ours))
    found = agreement_of(record)
    assert found.images == len(out)
    assert found.same_class == pytest.approx((p.argmax(1) == q.argmax(1)).double().mean().item())
    assert found.interval[0] <= found.same_class <= found.interval[1]
    assert found.cosine == pytest.approx((ours * theirs).sum(1).mean().item(), abs=1e-4)
    assert found.kl == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-3, abs=1e-5)

    names = tmp_path / "kept.txt"
    names.write_text("\n".join(str(sample.path) for sample in kept))
    alone = recipe_with(recipe_file, pool=f"[{names}]", share=0)
    distill_recipe(alone, tmp_path / "alone", teacher=ColourTeacher())
    assert same_weights(tmp_path / "run", tmp_path / "alone")
    assert read_record(tmp_path / "alone").agreement is None


def test_agreement_of_distributions_worked_out_by_hand() -> None:
    classifier = ZeroShotClassifier(torch.eye(2), FittedScale(1.0, None))
    image_emb = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    found = measured(logits, torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.6, 0.8]]), image_emb, classifier)
    assert (found.images, found.same_class) == (3, pytest.approx(2 / 3))
    assert found.cosine == pytest.approx((1 + 0 + 1) / 3)
    p, q = image_emb.softmax(1), logits.softmax(1)
    assert found.kl == pytest.approx((p * (p / q).log()).sum().item() / 3, rel=1e-5)
    assert measured(logits, None, image_emb, classifier).cosine is None


def test_a_baseline_asks_about_held_out_unlabelled_images_alone(recipe_file: Path, tmp_path: Path) -> None:
    recipe, teacher = recipe_with(recipe_file, "method=erm"), AskedTeacher()
    _, out = parts(recipe)
    distill_recipe(recipe, tmp_path / "run", teacher=teacher)
    record = read_record(tmp_path / "run")
    assert record.data.unlabelled is None
    found = agreement_of(record)
    assert (found.images, found.cosine) == (len(out), None)
    assert teacher.asked == record.teacher.images == sum(record.data.evaluated.values()) + len(out)
    plain = load_recipe(recipe_file, ["method=erm", "data.split.groups=data/groups.csv"])
    distill_recipe(plain, tmp_path / "plain", teacher=ColourTeacher())
    assert same_weights(tmp_path / "run", tmp_path / "plain")
    assert read_record(tmp_path / "plain").agreement is None

    teacher = AskedTeacher()
    distill_recipe(recipe_with(recipe_file, "method=zero_shot"), tmp_path / "teacher", teacher=teacher)
    record = read_record(tmp_path / "teacher")
    assert (record.agreement, record.data.held_out) == (None, None)
    probe = recipe_with(recipe_file, "method=linear_probe")
    distill_recipe(probe, tmp_path / "probe", teacher=ColourTeacher())
    assert agreement_of(read_record(tmp_path / "probe")).images == len(out)


@pytest.mark.parametrize("views", [0, 2])
def test_held_out_unlabelled_images_are_estimated_and_bought_ahead(
    recipe_file: Path, tmp_path: Path, views: int
) -> None:
    recipe = recipe_with(recipe_file, f"teacher_views={views}")
    kept, out = parts(recipe)
    estimate = estimate_ahead(recipe, None)
    bought = embed_ahead(recipe)
    distill_recipe(recipe, tmp_path / "run")
    record = read_record(tmp_path / "run")
    train = sum(record.data.images[domain]["train"] for domain in ("ink", "paint"))
    asked = (train + len(kept)) * max(1, views) + len(out) + sum(record.data.evaluated.values())
    assert estimate.to_buy == bought.bought == asked
    assert record.teacher.queries == 0
    assert agreement_of(record).images == len(out)


def test_text_term_measures_agreement_on_the_unlabelled_answers_that_are_held(
    recipe_file: Path, tmp_path: Path
) -> None:
    recipe, teacher = recipe_with(recipe_file, "missing_embeddings=text_term"), AskedTeacher()
    kept, out = parts(recipe)
    store = EmbeddingStore(store_root(), ColourTeacher())
    store.embed_samples(kept)
    distill_recipe(recipe, tmp_path / "none", teacher=teacher)
    record = read_record(tmp_path / "none")
    assert record.agreement is None
    assert record.teacher.images == len(kept)
    store.embed_samples(out[:2])
    distill_recipe(recipe, tmp_path / "two", teacher=teacher)
    record = read_record(tmp_path / "two")
    assert agreement_of(record).images == 2
    assert record.teacher.images == len(kept) + 2
    assert teacher.asked == 0


def test_held_out_unlabelled_images_are_no_test_images_and_those_of_the_target_are_counted(
    recipe_file: Path, tmp_path: Path
) -> None:
    domain_set = load_domains(recipe_with(recipe_file).data)
    pool = tmp_path / "pool"
    write_pool(pool, 6)
    for sample in domain_set.select({"photo"}, "train"):
        shutil.copy(sample.path, pool / f"{sample.path.parent.name}{sample.path.name}")
    recipe = recipe_with(recipe_file, "method=erm", pool=f"[{pool}]", share=0.5)
    sources = open_sources(recipe, World(), skip_bad=False, teacher=ColourTeacher())
    of_target = {sample.sha256 for sample in domain_set.select({"photo"}, "train")}
    expected = sum(sample.sha256 in of_target for sample in sources.held_out(recipe).samples)
    assert expected > 0
    distill_recipe(recipe, tmp_path / "run", teacher=ColourTeacher())
    record = read_record(tmp_path / "run")
    assert record.data.held_out is not None
    assert record.data.held_out.of_target == expected
    assert not record.adapted  # nothing of the target was trained on
    [comparison] = comparisons(load_results([tmp_path / "run"]))
    assert any("of the target itself (photo)" in note for note in agreement_notes(comparison))

    for sample in domain_set.select({"ink"}, "test"):
        shutil.copy(sample.path, pool / f"leak-{sample.path.parent.name}{sample.path.name}")
    teacher = AskedTeacher()
    with pytest.raises(DataError, match="leak-"):
        distill_recipe(recipe, tmp_path / "leaked", teacher=teacher)
    assert teacher.asked == 0


def test_a_finished_run_is_of_its_held_out_unlabelled_images(recipe_file: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(recipe_file.parent / "pool", pool)
    recipe = recipe_with(recipe_file, "method=erm", "trials=2", pool=f"[{pool}]")
    for _ in range(2):  # the second time both are kept
        distill_recipe(recipe, tmp_path / "runs", teacher=ColourTeacher())
    parts(recipe)[1][0].path.unlink()
    with pytest.raises(RunError, match="another data"):
        distill_recipe(recipe, tmp_path / "runs", teacher=ColourTeacher())


def test_the_unlabelled_share_counts_in_a_recipe_that_names_such_images(recipe_file: Path) -> None:
    plain = [load_recipe(recipe_file, [f"data.unlabelled_held_out={share}"]) for share in (0, 0.05, 0.2)]
    assert len({recipe_sha256(recipe) for recipe in plain}) == 1
    named = [recipe_with(recipe_file, share=share) for share in (0, 0.05, 0.2)]
    assert len({recipe_sha256(recipe) for recipe in named}) == 3


def write_study(folder: Path, numbers: dict[tuple[str, float], tuple[float, float | None]]) -> None:
    """A run for each method and learning rate, with its source validation and agreement."""
    for (method, rate), (val, same) in numbers.items():
        agreement = {"images": 50, "same_class": same, "interval": [0.1, 0.9], "cosine": None, "kl": 1.0}
        held_out = {"images": 50, "of_target": 0, "fingerprint": "f"}
        record = {"agreement": agreement, "data": {"held_out": held_out}} if same is not None else {}
        write_run(
            folder / f"{method}-{rate}",
            method=method,
            source=val + 0.05,
            settings={"distill.learning_rate": rate},
            record=record,
        )


def test_a_table_shows_agreement_where_it_was_measured_and_a_sweep_names_the_best(tmp_path: Path) -> None:
    write_study(
        tmp_path / "sweep",
        {
            ("adip", 0.1): (0.80, 0.50),
            ("adip", 0.2): (0.78, 0.625),
            ("adip", 0.3): (0.79, None),
            ("erm", 0.1): (0.70, 0.25),
        },
    )
    [table] = tables([tmp_path / "sweep"])
    place = table.columns.index("agreement")
    cells = [of_row[place] for of_row in table.cells]  # erm, then adip by rate
    assert [cell and cell.mean for cell in cells] == [0.25, 0.50, 0.625, None]
    assert {row for row, column in table.best if column == place} == {2}
    assert sum(note.startswith("agreement") for note in table.notes) == 1

    [comparison] = comparisons(load_results([tmp_path / "sweep"]))
    by_val, by_agreement, _ = best_settings(comparison)
    assert by_val.startswith("Best by source val: VL2V-ADiP, distill.learning_rate=0.1 (80.0 %, of 3")
    assert by_agreement.startswith("Best by agreement: VL2V-ADiP, distill.learning_rate=0.2 (62.5 %, of 2")
    assert "not of 1" in by_agreement

    write_study(tmp_path / "plain", {("adip", 0.1): (0.80, None), ("erm", 0.1): (0.90, None)})
    [comparison] = comparisons(load_results([tmp_path / "plain"]))
    assert best_settings(comparison) == ["Best by source val: ERM (90.0 %, of 2 settings)."]
    [table] = tables([tmp_path / "plain"])
    assert "agreement" not in table.columns


def test_the_sweep_command_names_the_best_setting_by_agreement_on_unlabelled_images(
    recipe_file: Path, tmp_path: Path
) -> None:
    grid = [
        f"--set={setting}" for setting in settings_with("distill.steps=2", "distill.learning_rate=1e-3,1e-4")
    ]
    # a list is one value of the grid
    grid[0] = "--set=data.unlabelled=[pool]"
    result = CliRunner().invoke(cli, ["sweep", str(recipe_file), "--out", str(tmp_path / "sweep"), *grid])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert sum(line.startswith("Best by source val: VL2V-ADiP") for line in lines) == 1
    assert sum(line.startswith("Best by agreement: VL2V-ADiP") for line in lines) == 1


@pytest.mark.slow
def test_two_processes_measure_the_agreement_on_unlabelled_images_of_one(
    recipe_file: Path, tmp_path: Path
) -> None:
    settings = settings_with("distill.steps=2")
    distill_recipe(load_recipe(recipe_file, settings), tmp_path / "alone")
    result = torchrun(recipe_file, tmp_path / "together", *(f"--set={setting}" for setting in settings))
    assert result.returncode == 0, result.stderr
    one, two = (agreement_of(read_record(tmp_path / name)) for name in ("alone", "together"))
    assert one.images == two.images
    assert one.kl == pytest.approx(two.kl, rel=1e-2, abs=1e-4)
    assert one.cosine == pytest.approx(two.cosine, abs=1e-3)
