"""Figures: what is drawn is what was measured, and what is not drawn is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tests.helpers.run_folders import CLASSES, SWAD, stages, write_run
from vl2v_deploy.cli.main import cli
from vl2v_deploy.distillation.study import figures
from vl2v_deploy.distillation.study.figures import draw_figures
from vl2v_deploy.distillation.study.table import tables
from vl2v_deploy.distillation.study.table_formats import write_tables
from vl2v_deploy.distillation.study.training_plot import plot_run
from vl2v_deploy.models.record import read_record


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure that is saved, by its file name; it is still written."""
    seen: dict[str, Figure] = {}
    save = Figure.savefig

    def remember(figure: Figure, path: Path, **options: Any) -> None:
        seen[Path(path).name] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return seen


def metrics(stages: tuple[str, ...] = ("align", "distill")) -> str:
    lines: list[dict[str, Any]] = []
    for stage in stages:
        lines += [
            {"stage": stage, "step": s, "loss": -0.1 * s, "images_per_s": 1.0, "seconds": 1.0}
            for s in range(8)
        ]
        lines += [{"stage": stage, "step": s, "val_loss": 2.0 / s, "val_accuracy": 0.1 * s} for s in (3, 7)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def heights(axes: Axes) -> dict[str, list[float]]:
    return {
        str(bars.get_label()): [bar.get_height() for bar in bars]
        for bars in axes.containers
        if hasattr(bars, "patches")
    }


def test_bars_are_the_numbers(tmp_path: Path, saved: dict[str, Figure]) -> None:
    for method, paint, photo in (("erm", 0.2, 0.3), ("adip", 0.6, 0.8)):
        for target, ood in (("paint", paint), ("photo", photo)):
            write_run(
                tmp_path / method / target,
                method=method,
                target=target,
                ood=ood,
                per_class=dict(zip(CLASSES, (ood + 0.1, ood - 0.1), strict=True)),
            )
    drawn = draw_figures([tmp_path], tmp_path / "out")
    [axes] = saved["methods.png"].axes
    assert heights(axes)["ERM"] == pytest.approx([20, 30, 25, 75])  # paint, photo, average, ID
    assert heights(axes)["VL2V-ADiP"] == pytest.approx([60, 80, 70, 75])
    [axes] = saved["per_class.png"].axes
    assert heights(axes)["ERM"] == pytest.approx([35, 15])
    assert heights(axes)["VL2V-ADiP"] == pytest.approx([80, 60])
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    assert "paint, photo" in axes.get_title() and axes.get_ylabel() == "accuracy, %"
    assert {path.name for path in drawn.files} == {"methods.png", "per_class.png"}
    for path in drawn.files:
        with Image.open(path) as image:
            assert image.size[0] > 600
    [missing] = drawn.missing
    assert "lambda.png: no runs sweep lambda" in missing and "vl2v-deploy sweep" in missing


def test_bars_carry_their_standard_error(tmp_path: Path, saved: dict[str, Figure]) -> None:
    for trial, ood in enumerate((0.4, 0.6)):
        write_run(tmp_path / str(trial), trial=trial, ood=ood)
    draw_figures([tmp_path], tmp_path / "out")
    for name in ("methods.png", "per_class.png"):
        [axes] = saved[name].axes
        [bars] = [container for container in axes.containers if hasattr(container, "patches")]
        first = bars.errorbar.lines[2][0].get_segments()[0]
        assert first[:, 1] == pytest.approx([40, 60])  # sd 0.1 * sqrt(2), over sqrt(2): 10 points each way
        assert "error bars: standard error over up to 2 trials" in axes.get_title().replace("\n", " ")


def test_a_missing_bar_is_missing_and_a_partial_mean_is_starred(
    tmp_path: Path, saved: dict[str, Figure]
) -> None:
    write_run(tmp_path / "a" / "1", target="paint")
    write_run(tmp_path / "a" / "2", target="photo", ood=0.9)
    write_run(tmp_path / "b", method="erm", target="photo")
    draw_figures([tmp_path], tmp_path / "out")
    [axes] = saved["methods.png"].axes
    paint, photo, average, _ = heights(axes)["ERM"]
    assert math.isnan(paint) and (photo, average) == (50, 50)
    title = axes.get_title().replace("\n", " ")
    assert "x: not measured" in title and "*: over fewer targets or trials" in title
    assert "50*" in [text.get_text() for text in axes.texts]
    # Classes are compared on the target that both methods have, which is better drawn than paint.
    assert heights(saved["per_class.png"].axes[0])["VL2V-ADiP"] == pytest.approx([90, 90])
    assert "(photo)" in saved["per_class.png"].axes[0].get_title().replace("\n", " ")


def test_classes_without_a_common_target_are_not_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "a", target="paint")
    write_run(tmp_path / "b", method="erm", target="photo")
    drawn = draw_figures([tmp_path], tmp_path / "out")
    assert any("per_class.png: no target domain was measured with every method" in m for m in drawn.missing)
    assert not (tmp_path / "out" / "per_class.png").exists()


def test_only_the_classes_that_differ_most_are_drawn_of_many(
    tmp_path: Path, saved: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST_CLASSES", 1)
    write_run(tmp_path / "a", per_class=dict(zip(CLASSES, (0.5, 0.9), strict=True)))
    write_run(tmp_path / "b", method="erm", per_class=dict(zip(CLASSES, (0.6, 0.2), strict=True)))
    draw_figures([tmp_path], tmp_path / "out")
    [axes] = saved["per_class.png"].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [CLASSES[1]]
    assert "the 1 of 2 classes" in axes.get_title().replace("\n", " ")


@pytest.mark.parametrize("both_stages", [False, True])
def test_lambda_has_a_point_a_value_with_its_error(
    tmp_path: Path, saved: dict[str, Figure], both_stages: bool
) -> None:
    for weight in (0.5, 0.0, 1.0):
        for trial, ood in enumerate((weight / 2, weight / 2 + 0.2)):
            settings = {"distill.image_weight": weight}
            settings |= {"align.image_weight": weight} if both_stages else {}
            write_run(
                tmp_path / f"{weight}-{trial}", trial=trial, ood=ood, source=1 - weight, settings=settings
            )
    write_run(tmp_path / "erm", method="erm")
    drawn = draw_figures([tmp_path], tmp_path / "out")
    ood_axes, id_axes = saved["lambda.png"].axes
    [line] = ood_axes.containers
    assert line.get_label() == "VL2V-ADiP"
    xs, ys = line.lines[0].get_data()
    assert list(xs) == [0, 0.5, 1] and list(ys) == pytest.approx([10, 35, 60])
    [[segment, *_]] = [bars.get_segments() for bars in line.lines[2]]
    # two trials 0.2 apart: sd 0.1 * sqrt(2), standard error 0.1
    assert segment[1][1] - segment[0][1] == pytest.approx(2 * 10)
    assert list(id_axes.containers[0].lines[0].get_ydata()) == pytest.approx([100, 50, 0])
    assert "λ" in ood_axes.get_xlabel() and "2 trials" in saved["lambda.png"].get_suptitle()
    assert drawn.missing == []


def test_runs_that_do_not_compare_get_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", data_root="pictures/vlcs")
    draw_figures([tmp_path], tmp_path / "out")
    assert (tmp_path / "out" / "table-1" / "methods.png").is_file()
    assert (tmp_path / "out" / "table-2" / "methods.png").is_file()


def test_training_curves_mark_the_window_and_the_threshold(tmp_path: Path, saved: dict[str, Figure]) -> None:
    record = stages(align=SWAD, distill=SWAD | {"converged": False, "threshold": None})
    run = write_run(tmp_path / "run", record=record, metrics=metrics())
    plot_run(run, read_record(run))
    figure = saved["training.png"]
    assert (run / "training.png").is_file()
    loss, _, val_loss, distill_val_loss, val_accuracy, _, bars = figure.axes
    assert list(loss.lines[0].get_xdata()) == list(range(1, 9))  # the first step is step 1 to people
    assert list(val_loss.lines[0].get_ydata()) == pytest.approx([2 / 3, 2 / 7])
    assert list(val_accuracy.lines[0].get_ydata()) == pytest.approx([30, 70])
    window = val_loss.patches[0].get_extents().transformed(val_loss.transData.inverted())
    assert (window.x0, window.x1) == pytest.approx((4.5, 8.5))  # steps 5 to 8
    assert list(val_loss.lines[1].get_ydata()) == [1.3, 1.3]
    assert len(distill_val_loss.lines) == 1
    labels = [
        text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts
    ]
    assert {"SWAD window", "SWAD threshold", "no valley found: the last segment"} <= set(labels)
    assert heights(bars)["this run"] == pytest.approx([75, 75, 50])
    assert heights(bars)["linear probe of the student"] == pytest.approx([40, 40, 40])


@pytest.mark.parametrize(
    "averaging",
    [
        {"kind": "best", "step": 3, "loss": 0.5, "accuracy": 0.3},
        {"kind": "ema", "decay": 0.9, "averaged_steps": 8},
        {"kind": "last"},
    ],
)
def test_training_curves_of_one_stage_and_any_averaging(tmp_path: Path, averaging: dict[str, Any]) -> None:
    run = write_run(
        tmp_path / "run", method="erm", record=stages(distill=averaging), metrics=metrics(("distill",))
    )
    drawn = draw_figures([run], tmp_path / "out")
    assert tmp_path / "out" / "training.png" in drawn.files


def test_the_zero_shot_teacher_has_no_curves_to_miss(tmp_path: Path) -> None:
    run = write_run(tmp_path / "zero", method="zero_shot")
    plot_run(run, read_record(run))
    assert (run / "training.png").is_file()
    drawn = draw_figures([tmp_path], tmp_path / "out")
    assert not any("training" in missing for missing in drawn.missing)


def test_lost_metrics_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", record=stages(distill=SWAD))
    drawn = draw_figures([run], tmp_path / "out")
    assert any(f"training curves of {run}: there is no metrics.jsonl" in missing for missing in drawn.missing)


def test_runs_from_records_are_drawn_and_their_curves_missed_once(tmp_path: Path) -> None:
    for trial in range(3):
        write_run(tmp_path / "runs" / str(trial), trial=trial, record=stages(distill=SWAD))
    write_tables(tables([tmp_path / "runs"]), tmp_path)
    drawn = draw_figures([tmp_path / "runs.jsonl"], tmp_path / "out")
    assert {path.name for path in drawn.files} == {"methods.png", "per_class.png"}
    [curves] = [missing for missing in drawn.missing if "training" in missing]
    assert "runs.jsonl:1 and 2 more runs: there is no metrics.jsonl" in curves


def test_command(tmp_path: Path) -> None:
    write_run(tmp_path / "a", record=stages(distill=SWAD), metrics=metrics(("distill",)))
    write_run(tmp_path / "b", method="erm", record=stages(distill=SWAD), metrics=metrics(("distill",)))
    result = CliRunner().invoke(cli, ["plot", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "methods.png" in result.output and "no runs sweep lambda" in result.output
    assert len(list((tmp_path / "out" / "training").glob("*.png"))) == 2
