"""Several processes at once share what was paid for; a failed run is named, the others are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.fake_vendor import fake_vendor
from tests.helpers.many_runs import vl2v
from tests.helpers.vendor_recipe import write_vendor_recipe
from vl2v_deploy.models.record import finished_runs, read_record


@pytest.mark.long
def test_two_jobs_at_once_pay_for_each_image_once(tmp_path: Path) -> None:
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        recipe = write_vendor_recipe(
            tmp_path / "recipe", vendor.url("openai"), images=6, logit_scale=20.0, batch_size=4
        )
        sweep = ("sweep", recipe, "--out", tmp_path / "out", "--set", "seed=0,1", "--jobs", "2")
        result = vl2v(*sweep, cache=tmp_path / "cache")
        assert result.returncode == 0, result.stdout + result.stderr
        images = [item for item in vendor.bill() if item.kind == "image"]
        again = vl2v(*sweep, cache=tmp_path / "cache")
        assert again.returncode == 0, again.stdout + again.stderr
        assert len([item for item in vendor.bill() if item.kind == "image"]) == len(images)
    runs = finished_runs(tmp_path / "out")
    assert [run.name for run in sorted(runs)] == ["seed=0", "seed=1"]
    records = [read_record(run) for run in runs]
    paid = sum(record.teacher.queries for record in records)
    assert paid == max(record.teacher.images for record in records)  # each image once, whoever asked
    assert "seed=0: started" in result.stdout and "2/2 seed=" in result.stdout
    assert (tmp_path / "out/table.md").is_file()
