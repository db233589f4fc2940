"""Classes that a teacher's texts do not tell apart are refused, or said to be near; so are cut prompts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.helpers.teachers import ColourTeacher, write_clip
from tests.helpers.tiny import write_teacher
from vl2v_deploy.data.domains import Sample
from vl2v_deploy.errors import DataError, ModelError
from vl2v_deploy.models.store.store import EmbeddingStore
from vl2v_deploy.models.teacher.classes import near_text, prompt_facts, prompt_notices, require_distinct
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import Teacher, prompt_classifier
from vl2v_deploy.recipe import BUILTIN_TEACHER, OpenClipRecipe, teacher_from_tree


def checked(teacher: Teacher, names: Sequence[str]) -> list[str]:
    """The near pairs among classes of these names, each pair as one text."""
    prompts = [(f"a photo of a {name}",) for name in names]
    text_emb = prompt_classifier(teacher, prompts)
    near = require_distinct(names, text_emb, prompts, prompt_facts(teacher, prompts).cut)
    return [f"{one}-{other}" for one, other, _ in near]


def open_clip_teacher(folder: Path) -> Teacher:
    return load_teacher(OpenClipRecipe(model=f"local-dir:{write_teacher(folder)}"))


def test_duplicate_classes_by_case_are_refused_by_name(tmp_path: Path) -> None:
    teacher = open_clip_teacher(tmp_path / "teacher")  # CLIP's tokenizer knows no capitals
    with pytest.raises(ModelError) as caught:
        checked(teacher, ["cat", "Dog", "dog"])
    assert "'Dog' and 'dog'" in str(caught.value) and "'cat'" not in str(caught.value)


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
def test_duplicate_classes_by_cut_prompts_say_so(tmp_path: Path, kind: str) -> None:
    if kind == "open_clip":
        teacher, words = open_clip_teacher(tmp_path / "teacher"), 80
    else:
        tree = {"kind": "transformers", "model": f"local-dir:{write_clip(tmp_path / 'teacher')}"}
        teacher, words = load_teacher(teacher_from_tree(tree)), 12
    long = " ".join(["circle"] * words)
    fits = prompt_facts(teacher, [("a circle",), ("a photo of a square",)])
    assert (fits.texts, fits.cut, fits.unchecked, prompt_notices(fits)) == (2, (), None, [])
    facts = prompt_facts(teacher, [("a circle",), (f"{long} cat",)])
    assert (facts.texts, facts.cut, facts.unchecked) == (2, (f"{long} cat",), None)
    with pytest.raises(ModelError, match=r"same text embedding.*does not read the end of 2 prompt"):
        checked(teacher, [f"{long} cat", f"{long} dog"])


def test_cut_prompts_are_those_with_a_token_too_many(tmp_path: Path) -> None:
    teacher = open_clip_teacher(tmp_path / "teacher")
    fits, too_long = " ".join(["cat"] * 75), " ".join(["cat"] * 76)  # and a start and an end: 77 tokens
    assert prompt_facts(teacher, [(fits,), (too_long,)]).cut == (too_long,)


def test_near_duplicate_classes_are_named_nearest_first() -> None:
    rows = [[1.0, 0.0, 0.0], [1.0, 0.05, 0.0], [0.0, 0.0, 1.0], [0.0, 0.1, 1.0]]
    text_emb = F.normalize(torch.tensor(rows), dim=1)
    near = require_distinct(["a", "b", "c", "d"], text_emb, [("x",)] * 4, [])
    assert [(pair.one, pair.other) for pair in near] == [("a", "b"), ("c", "d")]
    assert near[0].cosine == pytest.approx(float(text_emb[0] @ text_emb[1]), abs=1e-6)
    assert near_text(near).startswith("2 pair(s)") and "'a' and 'b'" in near_text(near)


def test_duplicate_classes_are_not_seen_where_there_are_none() -> None:
    teacher = load_teacher(OpenClipRecipe(model=BUILTIN_TEACHER))
    assert checked(teacher, ["cat", "dog", "clock", "tree", "car"]) == []


def test_the_store_takes_no_duplicate_of_another_images_key(tmp_path: Path) -> None:
    """A file exchanged after it was hashed does not put its answer under the other image's key."""
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    path = tmp_path / "a.png"
    sample = Sample(path, "ink", 0, "a", "train", hashlib.sha256(path.read_bytes()).hexdigest())
    right = tmp_path / "right.png"
    shutil.copyfile(path, right)
    shutil.copyfile(tmp_path / "b.png", path)
    store = EmbeddingStore(tmp_path / "store", ColourTeacher())
    with pytest.raises(DataError, match=r"a\.png: is no longer the image"):
        store.embed_samples([sample])
    shutil.copyfile(right, path)
    answer = store.embed_samples([sample])
    assert torch.allclose(answer, ColourTeacher().embed_images([Image.open(right)]), atol=1e-6)
