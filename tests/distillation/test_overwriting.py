"""--overwrite of several runs that was interrupted: what was there before is not taken for what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.helpers.domain_folders import make_domain_folder
from vl2v_deploy.distillation import run as runs
from vl2v_deploy.distillation.overwriting import JOURNAL, begin_overwriting, is_replaced, note_replaced
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import RunError
from vl2v_deploy.recipe import load_recipe


def test_resume_goes_on_with_an_overwrite_of_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    file = tiny.write_recipe(tmp_path, make_domain_folder(tmp_path / "data"))
    recipe, out = load_recipe(file, ["method=[zero_shot,linear_probe,teacher_probe]"]), tmp_path / "runs"
    names = [path.name for path in distill_recipe(recipe, out)]

    def made() -> dict[str, int]:
        return {name: (out / name / "run.json").stat().st_ino for name in names}

    first, distill_run = made(), runs.distill_run

    def interrupted(planned: runs.PlannedRun, *arguments: object) -> None:
        if planned.path.name == names[1]:
            raise KeyboardInterrupt
        distill_run(planned, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(runs, "distill_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distill_recipe(recipe, out, overwrite=True)
    second = made()
    assert [name for name in names if second[name] != first[name]] == names[:1]
    with pytest.raises(RunError, match="--resume"):
        distill_recipe(recipe, out)
    assert made() == second
    distill_recipe(recipe, out, resume=True)
    third = made()
    assert [name for name in names if third[name] != second[name]] == names[1:]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)  # the journal is gone, too
    distill_recipe(recipe, out, resume=True)
    distill_recipe(recipe, out)
    assert made() == third


def test_names_of_any_bytes_are_noted_and_half_a_line_is_not(tmp_path: Path) -> None:
    odd = [tmp_path / "a\nb", tmp_path / "caf\udce9", tmp_path / "plain"]
    begin_overwriting(tmp_path)
    for run in odd:
        assert not is_replaced(tmp_path, run)
        note_replaced(tmp_path, run)
    assert all(is_replaced(tmp_path, run) for run in odd)
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-1])
    assert [is_replaced(tmp_path, run) for run in odd] == [True, True, False]
