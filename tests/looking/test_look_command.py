"""`vl2v-deploy look` on a run, a bundle and a folder; the teacher's answers, and who pays for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import vl2v_deploy
from tests.helpers.teachers import ColourTeacher
from tests.helpers.tiny_bundle import CACHE, make_bundle
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Student
from vl2v_deploy.errors import RunError, SettingError
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher import load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, runs/tiny, bundles/tiny and the cache with what the teacher answered."""
    folder = tmp_path_factory.mktemp("look")
    make_bundle(folder)
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE, str(place / "cache"))


def looked(*words: object, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["look", *map(str, words), "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout) if code == 0 else {"error": result.output}


class PaidTeacher(ColourTeacher):
    """The teacher as a vendor, who counts what is bought."""

    answered_version = None

    def __init__(self) -> None:
        super().__init__()
        self.bought = {"image": 0, "text": 0}

    def buy_images(self, images: Iterable[Image.Image], keep: Callable[[Sequence[int], Any], None]) -> None:
        self._buy("image", list(images), self.embed_images, keep)

    def buy_texts(self, texts: Iterable[str], keep: Callable[[Sequence[int], Any], None]) -> None:
        self._buy("text", list(texts), self.embed_texts, keep)

    def _buy(self, kind: str, things: list[Any], embed: Any, keep: Any) -> None:
        self.bought[kind] += len(things)
        keep(range(len(things)), embed(things))


def test_run_and_bundle_show_the_accuracy_of_the_record(place: Path) -> None:
    record = json.loads((place / "runs/tiny/run.json").read_text())["accuracy"]
    manifest = json.loads((place / "bundles/tiny/manifest.json").read_text())
    for student in ("runs/tiny", "bundles/tiny"):
        seen = looked(place / student)
        assert seen["target"] == record["target"] == next(iter(seen["domains"]))
        for domain, counts in seen["domains"].items():
            assert counts["accuracy"] == pytest.approx(record["student"][domain])
            assert counts["teacher_accuracy"] == pytest.approx(record["teacher"][domain])
        assert (seen["kind"], seen["notes"]) == (student.partition("s/")[0], [])
        page = Path(seen["page"])
        assert page == Path("reports/tiny/look.html") and page.stat().st_size == seen["bytes"]
    assert seen["abstain_below"] == manifest["confidence"]["abstain_below"]
    shutil.make_archive("zipped", "zip", place / "bundles", "tiny")
    assert looked("zipped.zip", "--max-images", 6)["domains"]["photo"]["images"] == 6


def test_mistakes_are_the_students_own(place: Path) -> None:
    seen = looked(place / "bundles/tiny", "--out", "deep/er/page.html")
    assert Path("deep/er/page.html").is_file() and [p.name for p in Path("deep/er").iterdir()] == [
        "page.html"
    ]
    with Student.load(place / "bundles/tiny") as student:
        for counts in seen["domains"].values():
            for mistake in counts["most_confident_mistakes"]:
                answer = student.predict(mistake["image"])
                assert answer.label == mistake["student"] != mistake["class"]
                assert answer.probability == pytest.approx(mistake["confidence"], abs=1e-5)
                assert Path(mistake["image"]).parent.name == mistake["class"]


def test_what_the_teacher_has_not_answered_is_told_and_asked_for_on_request(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    seen = looked(place / "bundles/tiny")
    [note] = seen["notes"]
    assert "has not answered 28 of 28 images" in note and "--ask-teacher" in note
    assert seen["teacher"] is None and seen["disagreements"] == {}
    seen = looked(place / "bundles/tiny", "--ask-teacher")
    assert seen["notes"] == [] and seen["domains"]["photo"]["asked"] == 20
    assert looked(place / "bundles/tiny")["domains"]["photo"]["asked"] == 20  # now they are held


def test_a_vendor_is_paid_only_when_asked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    vendor = PaidTeacher()
    monkeypatch.setattr(load, "load_teacher", lambda *_: vendor)
    seen = looked(place / "bundles/tiny", "--max-images", 8)
    assert vendor.bought == {"image": 0, "text": 0} and seen["teacher"] is None
    assert "--ask-teacher" in seen["notes"][-1]
    # images that were paid for are of no use before the prompts are
    EmbeddingStore(store_root(), vendor).embed(sorted((place / "data/photo").rglob("*.png"))[:3])
    seen = looked(place / "bundles/tiny", "--max-images", 8)
    assert vendor.bought["text"] == 0 and "prompts" in seen["notes"][-1]
    looked(place / "bundles/tiny", "--max-images", 8, "--ask-teacher")
    bought = dict(vendor.bought)
    assert bought["image"] >= 16 and bought["text"] >= 2
    seen = looked(place / "bundles/tiny")  # the other images of the target are not bought
    held = seen["domains"]["photo"]["asked"]
    assert vendor.bought == bought and 8 <= held < 12
    assert f"has not answered {20 - held} of 28 images" in seen["notes"][-1] and "paid" in seen["notes"][-1]


def test_a_teacher_that_cannot_be_loaded_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SettingError("VENDOR_KEY: is not set")

    monkeypatch.setattr(load, "load_teacher", refuse)
    seen = looked(place / "bundles/tiny")
    assert "VENDOR_KEY: is not set" in seen["notes"][-1] and seen["teacher"] is None
    assert "VENDOR_KEY" in looked(place / "bundles/tiny", "--ask-teacher", code=1)["error"]


def test_a_folder_without_labels(place: Path) -> None:
    photos = Path("photos")
    (photos / "deeper").mkdir(parents=True)
    for number, path in enumerate(sorted((place / "data/ink").rglob("*.png"))):
        shutil.copy(path, photos / "deeper" / f"{number}.png")
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    seen = looked(place / "bundles/tiny", "--images", photos)
    assert (seen["images"], seen["of"], len(seen["failed"])) == (20, 21, 1)
    assert Path(seen["page"]) == Path("reports/tiny/look-photos.html")
    assert sum(seen["class_shares"].values()) == pytest.approx(1)
    manifest = json.loads((place / "bundles/tiny/manifest.json").read_text())
    usual = manifest["reference"]["precisions"]["fp32"]["class_shares"]
    assert list(seen["class_shares_of_source_validation"].values()) == usual
    with Student.load(place / "bundles/tiny") as student:
        answers = [student.predict(path) for path in sorted((photos / "deeper").iterdir())]
    assert seen["abstained"] == pytest.approx(np.mean([answer.abstained for answer in answers]))
    sure = sorted(answer.probability for answer in answers)
    shown = [image["confidence"] for image in seen["least_confident"]]
    assert shown == pytest.approx(sure[: len(shown)], abs=1e-5)
    assert looked(place / "runs/tiny", "--images", photos, "--max-images", 5)["images"] <= 5


def test_what_cannot_be_looked_at(place: Path) -> None:
    said = looked(place / "runs", code=1)["error"]
    assert "neither a run directory" in said and "vl2v-deploy look" in said and "runs/tiny" in said
    assert "no such" in looked("bundles/none", code=1)["error"]
    Path("empty").mkdir()
    assert "holds no image" in looked(place / "bundles/tiny", "--images", "empty", code=1)["error"]
    assert "--data" in looked(place / "bundles/tiny", "--images", "x", "--ask-teacher", code=2)["error"]
    other = Path("data/ink/star")
    shutil.copytree(place / "data", "data")
    other.mkdir()
    shutil.copy("data/ink/circle/0.png", other / "0.png")
    assert "star" in looked(place / "bundles/tiny", "--data", "data", code=1)["error"]
    with pytest.raises(RunError, match="fp32 only"):
        vl2v_deploy.look(place / "runs/tiny", precision="int8")


def test_changed_images_are_told(place: Path) -> None:
    shutil.copytree(place / "data", "data")
    Path("data/ink/circle/0.png").unlink()
    assert "not the images" in looked(place / "runs/tiny", "--data", "data")["notes"][0]


def test_python_returns_the_same_and_a_notebook_shows_pictures(place: Path) -> None:
    found = vl2v_deploy.look(place / "bundles/tiny", "page.html")
    assert found.path == Path("page.html") and found.summary["images"] == 28
    drawn = found._repr_html_()
    mistakes = found.summary["domains"]["photo"]["most_confident_mistakes"]
    assert drawn.count("<img ") == len(mistakes) > 0
    assert found.words[0] in repr(found)
