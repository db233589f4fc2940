"""Models that bring code: nothing that a recipe names runs it, or asks standard input whether to."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils

from tests.helpers.teachers import write_clip
from tests.helpers.tiny import TEACHER_CONFIG, write_teacher
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.open_clip_model import create_model, tokenizer_of
from vl2v_deploy.recipe import OpenClipRecipe, TransformersRecipe, recipe_sha256
from vl2v_deploy.recipe.whole import recipe_from_tree

CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast
class Config(CLIPConfig):
    model_type = "hostile"
class Model(CLIPModel):
    config_class = Config
class Processor(CLIPImageProcessor): ...
class Tokenizer(PreTrainedTokenizerFast): ...
"""
FILES = {
    "config.json": {
        "model_type": "hostile",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    },
    "tokenizer_config.json": {
        "tokenizer_class": "Tokenizer",
        "auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]},
    },
    "preprocessor_config.json": {
        "image_processor_type": "Processor",
        "auto_map": {"AutoImageProcessor": "code.Processor"},
    },
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that hostile code makes; standard input agrees to everything."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


def hostile(folder: Path, ran: Path, *files: str) -> Path:
    """A CLIP of which some files name code of its own."""
    write_clip(folder)
    (folder / "code.py").write_text(CODE.format(ran=str(ran)))
    for name in files:
        path = folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(found | FILES[name]))
    return folder


def transformers_recipe(folder: Path, **more: object) -> TransformersRecipe:
    tree = {"kind": "transformers", "model": f"local-dir:{folder}", "batch_size": 4, **more}
    return TransformersRecipe.model_validate(tree)


@pytest.mark.parametrize("file", FILES)
def test_hostile_code_beside_a_model_is_neither_run_nor_asked_about(
    tmp_path: Path, ran: Path, file: str
) -> None:
    folder = hostile(tmp_path / "model", ran, file)
    try:
        load_teacher(transformers_recipe(folder))
    except ModelError as error:
        assert "teacher.trust_remote_code: true" in str(error)
    else:
        assert file == "tokenizer_config.json"  # transformers 5 takes the class of its own that fits
    assert not ran.exists()
    assert sys.stdin.tell() == 0


def test_code_runs_for_who_wants_it_and_it_is_said(
    tmp_path: Path, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hostile(tmp_path / "model", ran, "config.json")
    teacher = load_teacher(transformers_recipe(folder, trust_remote_code=True))
    assert ran.exists() and teacher.embedding_dim == 8
    assert str(folder) in capsys.readouterr().err.replace("\n", "")
    with (folder / "code.py").open("a") as code:
        code.write("# other code may answer otherwise\n")
    again = load_teacher(transformers_recipe(folder, trust_remote_code=True))
    assert again.identity != teacher.identity


def open_clip_folder(folder: Path, **text: object) -> str:
    """An open_clip config whose text tower comes from elsewhere, without weights."""
    folder.mkdir()
    model = TEACHER_CONFIG["model_cfg"]
    config = {**TEACHER_CONFIG, "model_cfg": {**model, "text_cfg": {"hf_proj_type": "linear", **text}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_hostile_text_towers_of_open_clip_are_not_run(tmp_path: Path, ran: Path) -> None:
    other = hostile(tmp_path / "other", ran, "config.json")
    name = open_clip_folder(tmp_path / "model", hf_model_name=str(other), hf_pooler_type="mean_pooler")
    with pytest.raises(ModelError, match="custom code"):
        create_model(name, None, weights=False)
    assert not ran.exists() and sys.stdin.tell() == 0


@pytest.mark.parametrize("asked", [{}, {"tokenizer_kwargs": {"trust_remote_code": True}}])
def test_hostile_tokenizers_of_open_clip_are_not_run(
    tmp_path: Path, ran: Path, asked: dict[str, object]
) -> None:
    folder = hostile(tmp_path / "model", ran, "tokenizer_config.json")
    text = {"hf_tokenizer_name": "any", **asked}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    try:
        tokenizer_of(f"local-dir:{folder}")
    except ModelError as error:
        assert "trust_remote_code" in str(error)
    else:
        assert not asked  # see above
    assert not ran.exists() and sys.stdin.tell() == 0


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.ran), 0o777)


@pytest.mark.parametrize("packed", ["torch", "pickle"])
def test_hostile_weights_are_not_unpickled(tmp_path: Path, ran: Path, packed: str) -> None:
    clip, folder = write_clip(tmp_path / "clip"), write_teacher(tmp_path / "open_clip")
    weights = {clip: "pytorch_model.bin", folder: "open_clip_pytorch_model.bin"}
    for place, name in weights.items():
        for safe in place.glob("*.safetensors"):
            safe.unlink()
        if packed == "torch":
            torch.save({"text_projection": Runs(ran)}, place / name)
        else:
            (place / name).write_bytes(pickle.dumps(Runs(ran)))
    for recipe in (transformers_recipe(clip), OpenClipRecipe(model=f"local-dir:{folder}")):
        with pytest.raises(ModelError):
            load_teacher(recipe)
    assert not ran.exists()


def test_a_hostile_pipe_among_a_models_files_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "model")
    os.mkfifo(folder / "added_tokens.json")
    with pytest.raises(ModelError, match=r"added_tokens\.json: cannot be read: is not a regular file"):
        load_teacher(transformers_recipe(folder))


def test_recipes_from_before_the_field_keep_their_hash() -> None:
    tree: dict[str, dict[str, object]] = {
        "data": {"root": "/data", "target": "photo"},
        "teacher": {"kind": "transformers", "model": "local-dir:/clip"},
        "student": {"backbone": "resnet18"},
    }
    plain = recipe_from_tree(tree, source="x")
    assert recipe_sha256(plain) == "17935f709831aa3e73560d1ffbc780431d6b5b99d7aa3800a08993eb14852bfe"
    tree["teacher"] |= {"trust_remote_code": True}
    assert recipe_sha256(recipe_from_tree(tree, source="x")) != recipe_sha256(plain)
