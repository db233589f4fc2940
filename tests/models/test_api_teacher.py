"""A vendor's API as the teacher of a cascade: the store's identity, the bill, the key, no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.client.test_hostile_images import slow_file
from tests.helpers.cascades import CLASSES, UNSURE, TextStudent
from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.fake_vendor.vectors import image_embedding
from tests.helpers.vendor_recipe import write_vendor_recipe
from tests.helpers.vendor_recipes import KEY, KEY_ENV, vendor_recipe, vendor_teacher
from vl2v_deploy import ApiTeacher
from vl2v_deploy.cli.main import cli
from vl2v_deploy.client import Cascade, KeptFolder, Limits, Student, decoding_processes
from vl2v_deploy.client.cascade.kept import text_of_embedding
from vl2v_deploy.client.images import FORMATS
from vl2v_deploy.distillation.run import distill_recipe
from vl2v_deploy.errors import (
    BundleError,
    DecodingError,
    ImageError,
    ModelError,
    SettingError,
    TeacherError,
)
from vl2v_deploy.exporting.options import ExportOptions
from vl2v_deploy.exporting.run import export_run
from vl2v_deploy.models.store.kept import import_kept
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.api import (
    PackedImage,
    PackedTeacher,
    load_packed,
    text_of_packed,
)
from vl2v_deploy.models.teacher.http.apis import cohere
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import load_recipe
from vl2v_deploy.recipe.vendors import APIS, MOST_ITEMS


def packed(api: str, url: str = "http://vendor.test", **changes: Any) -> PackedTeacher:
    recipe = vendor_recipe(api, url)
    fields = {
        name: getattr(recipe, name)
        for name in (
            *("api", "url", "host", "model", "text_model", "key_env", "dimensions", "batch_size"),
            *("usd_per_1k_images", "timeout_s"),
        )
    }
    image = PackedImage(recipe.image.size_px, recipe.image.format, recipe.image.quality)
    teacher, _ = vendor_teacher(Path("nothing is asked"), recipe)
    texts = np.eye(16, dtype=np.float32)[:3]
    made = fields | {
        "format": 1,
        "image": image,
        "identity": teacher.identity,
        "classes": ("a", "b", "c"),
        "logit_scale": 20.0,
        "class_embeddings": text_of_embedding(texts),
    }
    return PackedTeacher(**(made | changes))


@pytest.mark.parametrize("api", APIS)
def test_every_api_is_asked_as_the_store_asks_it(api: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The identity is computed by the same function from other settings: only an answer shows the rest."""
    monkeypatch.setenv(KEY_ENV, KEY)
    images = [Image.fromarray(np.full((9, 9, 3), n, np.uint8)) for n in (10, 120, 250)]
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        file = tmp_path / "teacher.json"
        file.write_text(text_of_packed(packed(api, vendor.url(api))))
        teacher = ApiTeacher.load(file)
        found = teacher(images)  # type: ignore[arg-type]
        bought, _ = vendor_teacher(tmp_path, vendor_recipe(api, vendor.url(api)))
        expected = bought.embed_images(images).numpy()
        billed = [item for item in vendor.bill() if item.kind == "image"]
    assert teacher.identity == bought.identity
    assert found.embeddings is not None
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(found.embeddings[1], image_embedding(images[1], 16), atol=1e-4)
    logits = 20.0 * expected[:, :3].astype(np.float64)
    np.testing.assert_allclose(
        found.probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-6
    )
    assert found.version == bought.answered_version
    assert len({item.sha256 for item in billed}) == 3
    assert teacher.usd_per_query == 0.001
    assert KEY not in file.read_text()


def test_an_image_is_billed_once_whatever_the_api() -> None:
    """A budget counts one query an image: where a purchase would repeat one to check the order, none is."""
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(len(json.loads(request.content)["images"]))
        return httpx.Response(200, json={"embeddings": {"float": [[1.0] * 16]}})

    made = packed("cohere", key_env=None)
    teacher = ApiTeacher(made, over=httpx.MockTransport(answer))
    teacher([np.zeros((8, 8, 3), np.uint8)] * 3)
    assert asked == [1, 1, 1]
    assert MOST_ITEMS["cohere"] == cohere.MOST_ITEMS


@pytest.mark.parametrize(
    ("answer", "billed"),
    [
        (httpx.Response(429, json={"error": "slow down"}), False),
        (httpx.Response(401, text=f"wrong key {KEY}"), False),
        (httpx.Response(500, text="after the work"), True),
        (httpx.Response(200, text="<html>"), True),
        (httpx.ConnectError("refused"), False),
        (httpx.ReadTimeout("late"), True),
    ],
)
def test_a_failure_says_whether_it_was_billed_and_never_the_key(
    answer: Any, billed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)

    def reply(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    teacher = ApiTeacher(packed("jina"), over=httpx.MockTransport(reply))
    with pytest.raises(TeacherError, match=r"vendor\.test") as failed:
        teacher([np.zeros((8, 8, 3), np.uint8)])
    assert failed.value.billed is billed
    assert KEY not in repr(failed.value) + str(failed.value) and KEY not in repr(vars(teacher))


def test_a_model_that_does_not_say_how_it_takes_images_was_sent_none() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    teacher = ApiTeacher(packed("kserve", key_env=None), over=httpx.MockTransport(refuse))
    with pytest.raises(TeacherError, match=r"vendor\.test") as failed:
        teacher([np.zeros((8, 8, 3), np.uint8)])
    assert not failed.value.billed


def test_what_was_sent_before_a_refusal_is_billed() -> None:
    replies = iter([httpx.Response(200, json={"embeddings": {"float": [[1.0] * 16]}}), httpx.Response(429)])
    teacher = ApiTeacher(packed("cohere", key_env=None), over=httpx.MockTransport(lambda _: next(replies)))
    with pytest.raises(TeacherError) as failed:
        teacher([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert failed.value.billed


def test_an_image_that_is_too_small_is_an_error_before_anything_is_sent() -> None:
    teacher = ApiTeacher(packed("openai"), over=httpx.MockTransport(lambda _: pytest.fail("it was sent")))
    with pytest.raises(ImageError, match="at least 3"):
        teacher([np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 3), np.uint8)])


def test_images_are_decoded_within_the_limits_of_a_student(tmp_path: Path) -> None:
    file = tmp_path / "teacher.json"
    file.write_text(text_of_packed(packed("openai", key_env=None)))
    picture, tiff = Image.new("RGB", (80, 60), "teal"), io.BytesIO()
    picture.save(tiff, "TIFF")
    never = httpx.MockTransport(lambda _: pytest.fail("it was sent"))
    with pytest.raises(ImageError, match="its format is TIFF"):  # as by a student's default
        ApiTeacher(packed("openai", key_env=None), over=never)([tiff.getvalue()])
    for limits, words in (
        (Limits(max_pixels=80 * 60 - 1), "more than 4799 pixels"),
        (Limits(max_bytes=9, formats=FORMATS), "more than 9"),
    ):
        with pytest.raises(ImageError, match=words):
            ApiTeacher.load(file, limits=limits)([picture if limits.max_bytes > 9 else tiff.getvalue()])


def test_an_image_that_takes_too_long_to_decode_costs_nothing_and_keeps_the_students_answer(
    tmp_path: Path,
) -> None:
    class BlindStudent(TextStudent):
        def pixels(self, image: bytes) -> np.ndarray[Any, Any]:
            return super().pixels(UNSURE)

    teacher = ApiTeacher(
        packed("openai", key_env=None, classes=CLASSES),
        limits=Limits(formats=FORMATS, decode_deadline_s=0.2),
        over=httpx.MockTransport(lambda _: pytest.fail("it was sent")),
    )
    limits: Any = {"max_usd_per_day": 1.0, "spent_file": tmp_path / "spent", "timeout_s": 60.0}
    with Cascade(BlindStudent(), teacher, threshold=0.0, **limits) as cascade:  # type: ignore[arg-type]
        answer = cascade.predict(slow_file())
        assert (answer.by, answer.reason, answer.cost_usd) == ("student", "teacher_error", 0.0)
        assert "took longer than 0.2 s to decode" in str(answer.problem)
        assert cascade.summary().spent_today_usd == 0.0


def test_where_no_decoding_process_can_be_started_nothing_is_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_starts(*_: Any, **__: Any) -> None:
        raise DecodingError("cannot be started")

    monkeypatch.setattr(decoding_processes, "decode_in_time", none_starts)
    teacher = ApiTeacher(packed("openai", key_env=None), limits=Limits(decode_deadline_s=1.0))
    with pytest.raises(TeacherError, match="cannot be started") as failed:
        teacher([b"any bytes"])
    assert not failed.value.billed


def test_a_key_that_is_not_set_and_a_file_that_was_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    with pytest.raises(SettingError, match=KEY_ENV):
        ApiTeacher(packed("jina"))
    file = tmp_path / "teacher.json"
    for change, words in (
        ({"model": "another"}, "its settings are those of"),
        ({"class_embeddings": text_of_embedding(np.zeros((3, 16), np.float32))}, "zero"),
        ({"class_embeddings": "AAAA"}, "teacher pack"),
        ({"format": 9}, "format 9"),
        ({"api": "telepathy"}, "telepathy"),
    ):
        file.write_text(text_of_packed(replace(packed("jina"), **change)))
        with pytest.raises(BundleError, match=words):
            load_packed(file)


def test_neither_torch_nor_pydantic_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "teacher.json"
    file.write_text(text_of_packed(packed("openai")))
    program = (
        "import sys; from vl2v_deploy import ApiTeacher; from vl2v_deploy.client import Cascade\n"
        f"ApiTeacher.load({str(file)!r})\n"
        "heavy = {'torch', 'pydantic', 'yaml', 'filelock', 'platformdirs'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


class VendorRun:
    """A student that was distilled from the fake vendor."""

    def __init__(self, folder: Path, vendor: FakeVendor) -> None:
        self.folder, self.vendor = folder, vendor
        self.recipe = write_vendor_recipe(folder, vendor.url("openai"))
        [run] = distill_recipe(load_recipe(self.recipe), folder / "run")
        export_run(run, folder / "bundle", ExportOptions(), overwrite=False)
        self.bundle = folder / "bundle"


@pytest.fixture(scope="module")
def vendor_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VendorRun]:
    folder = tmp_path_factory.mktemp("vendor-run")
    with (
        pytest.MonkeyPatch.context() as patch,
        fake_vendor(folder / "vendor", dimensions=16) as vendor,
    ):
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "cache"))
        yield VendorRun(folder, vendor)


@pytest.mark.slow
def test_from_pack_to_a_cascade_and_back_into_the_store(vendor_run: VendorRun, tmp_path: Path) -> None:
    """The whole circle: what production paid for is trained on, and never paid for again."""
    file, kept = tmp_path / "teacher.json", tmp_path / "kept"
    packing = CliRunner().invoke(cli, ["teacher", "pack", str(vendor_run.bundle), "--out", str(file)])
    assert packing.exit_code == 0, packing.output
    rng = np.random.default_rng(5)
    new = tmp_path / "new"
    new.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(new / f"{number}.png")
    before = len(vendor_run.vendor.bill())
    with (
        Student.load(vendor_run.bundle) as student,
        Cascade(
            student,
            ApiTeacher.load(file),
            share=1.0,
            max_usd_per_day=0.0025,  # of 0.0005 each: five
            spent_file=tmp_path / "spent",
            keep=KeptFolder(kept),
            timeout_s=60.0,
        ) as cascade,
    ):
        found = cascade.predict_batch(sorted(new.iterdir()))
    assert sorted(one.reason for one in found) == ["budget"] + ["unsure"] * 5
    assert len(vendor_run.vendor.bill()) == before + 5
    done = CliRunner().invoke(cli, ["teacher", "import", str(kept), "--recipe", str(vendor_run.recipe)])
    assert done.exit_code == 0, done.output
    assert "5 embeddings of openai/colours@" in done.output and f"unlabelled: [{kept}]" in done.output
    again = CliRunner().invoke(cli, ["teacher", "import", str(kept)])
    assert "0 embeddings" in again.output and "5 were held already" in again.output

    teacher = load_teacher(load_recipe(vendor_run.recipe).teacher)
    store = EmbeddingStore(store_root(), teacher)
    rows = store.embed(sorted(kept.rglob("*.png")))
    assert store.queries == 0 and len(vendor_run.vendor.bill()) == before + 5
    for path, row in zip(sorted(kept.rglob("*.png")), rows, strict=True):
        with Image.open(path) as image:
            sent = image.resize((20, int(20 * 40 / 30)), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(row, image_embedding(sent, 16), atol=1e-4)
    settings = (f"data.unlabelled=[{kept}]", "align.unlabelled_per_step=2", "distill.unlabelled_per_step=2")
    distill_recipe(load_recipe(vendor_run.recipe, settings), tmp_path / "run")
    assert (
        len([item for item in vendor_run.vendor.bill()[before + 5 :] if item.kind == "image"]) <= 16
    )  # canaries


@pytest.mark.slow
def test_what_does_not_fit_is_not_imported(vendor_run: VendorRun, tmp_path: Path) -> None:
    from tests.client.cascade.test_cascade_kept import picture

    kept = tmp_path / "kept"
    with pytest.raises(ModelError, match=r"no answers\.jsonl"):
        import_kept(kept, tmp_path / "store")
    write_lines(kept, [picture(n) for n in range(3)], "colours/of-a-test#1")
    with pytest.raises(ModelError, match="expected openai/colours"):
        import_kept(kept, tmp_path / "store", load_teacher(load_recipe(vendor_run.recipe).teacher))
    folder = next(kept.iterdir())
    next(folder.glob("*.png")).write_bytes(b"another image")
    with (folder / "answers.jsonl").open("a") as file:
        file.write('{"at": "torn')
    found = import_kept(kept, tmp_path / "store")
    assert (found.imported, found.held, sorted(found.left_out.values())) == (2, 0, [1, 1])
    write_lines(kept, [picture(9)], "colours/of-another#2", "2026-11-29")
    with pytest.raises(ModelError, match="of-another#2"):
        import_kept(kept, tmp_path / "store")


def write_lines(kept: Path, images: list[bytes], identity: str, day: str = "2026-11-28") -> None:
    from tests.client.cascade.test_cascade_kept import line

    folder = KeptFolder(kept, today=lambda: day)
    embedding = text_of_embedding(np.eye(16, dtype=np.float32)[0])
    for image in images:
        folder.keep(image, lambda *of: replace(line(*of), identity=identity, embedding=embedding))
