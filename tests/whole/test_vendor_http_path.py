"""From a teacher behind HTTP to a bundle, by the command line; the key is in nothing that is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.tiny import write_recipe
from tests.helpers.vendor_recipes import KEY, KEY_ENV, vendor_recipe


class Work:
    """A folder with a recipe whose teacher is the fake vendor; output of all commands run there."""

    def __init__(self, folder: Path, vendor: FakeVendor, api: str) -> None:
        self.folder, self.said = folder, ""
        recipe = write_recipe(folder / "tiny", make_domain_folder(folder / "data", images=4))
        tree = yaml.safe_load(recipe.read_text())
        teacher = vendor_recipe(api, vendor.url(api), key_env=KEY_ENV, logit_scale=20.0)
        tree["teacher"] = teacher.model_dump(mode="json")
        self.recipe = folder / "vendor.yaml"
        self.recipe.write_text(yaml.safe_dump(tree))

    def run(self, *arguments: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"VL2V_DEPLOY_CACHE": str(self.folder / "cache")}
        environment.pop(KEY_ENV, None)
        if key is not None:
            environment[KEY_ENV] = key
        done = subprocess.run(
            [sys.executable, "-m", "vl2v_deploy", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.said += done.stdout + done.stderr
        return done


@pytest.mark.parametrize("api", ["openai", "cohere"])
def test_http_teacher_is_distilled_exported_and_its_key_left_nowhere(api: str, tmp_path: Path) -> None:
    with fake_vendor(tmp_path / "vendor", key=KEY, dimensions=16) as vendor:
        work = Work(tmp_path, vendor, api)
        distilled = work.run("distill", "vendor.yaml", "--out", "run")
        assert distilled.returncode == 0, distilled.stderr
        exported = work.run("export", "run", "--out", "bundle", "--precision", "fp32")
        assert exported.returncode == 0, exported.stderr
        other = ("distill", "vendor.yaml", "--out", "other", "--set")
        refused = work.run(*other, "teacher.model=b", key="wrong")
        assert refused.returncode == 1 and "HTTP 401" in refused.stderr
        missing = work.run(*other, "teacher.model=c", key=None)
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1].startswith(f"Error: {KEY_ENV}: is not set")
    for output in (refused, missing):
        assert "Traceback" not in output.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    terms = {"url": "https://vendor.test/terms", "read_on": "2026-11-28", "permits": "internal"}
    assert record["teacher"]["terms"] == manifest["run"]["teacher"]["terms"] == terms
    assert distilled.stderr.count("Images are sent to 127.0.0.1") == 1
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 50
    assert [file for file in files if KEY.encode() in file.read_bytes() or KEY in file.name] == []
    assert KEY not in work.said and KEY_ENV in work.recipe.read_text()
