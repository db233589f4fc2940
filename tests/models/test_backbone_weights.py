"""Checkpoints of other frameworks: what is found in them, what is left out aloud, and what is refused."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.backbone_weights import load_backbone_file
from vl2v_deploy.recipe import load_recipe, recipe_from_tree

State = dict[str, Tensor]


def model(name: str, seed: int, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = timm.create_model(name, **options)
    return made


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def load(tmp_path: Path, content: Any, backbone: nn.Module, name: str = "weights.pth") -> nn.Module:
    torch.save(content, tmp_path / name)
    load_backbone_file(backbone, tmp_path / name, f"student.weights: {name}")
    return backbone


def require_same(backbone: nn.Module, published: State) -> None:
    for key, value in backbone.state_dict().items():
        torch.testing.assert_close(value, published[key], rtol=0, atol=0)


LAYOUTS: dict[str, Callable[[State, State], Any]] = {
    "plain.bin": lambda meant, other: meant,
    "torchvision.pth.tar": lambda meant, other: {"epoch": 3, "state_dict": under("module.", meant)},
    "lightning.ckpt": lambda meant, other: {
        "state_dict": under("model.backbone.", meant),
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "deit.pth": lambda meant, other: {"model": meant, "args": Namespace(lr=0.1)},
    "dino.pth": lambda meant, other: {
        "student": under("module.backbone.", other),
        "teacher": under("backbone.", meant) | {"head.mlp.0.weight": torch.zeros(2, 2)},
    },
    "moco.pth.tar": lambda meant, other: {
        "state_dict": under("module.encoder_q.", meant)
        | under("module.encoder_k.", other)
        | {"module.queue": torch.zeros(2, 2)}
    },
    "timm.pth.tar": lambda meant, other: {"state_dict": meant, "state_dict_ema": other},
    "compiled.pt": lambda meant, other: under("_orig_mod.", meant),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_the_meant_weights_are_found_however_they_are_wrapped(
    tmp_path: Path, backbone: str, name: str
) -> None:
    meant, other = (model(backbone, seed).state_dict() for seed in (1, 2))
    require_same(load(tmp_path, LAYOUTS[name](meant, other), model(backbone, 3, num_classes=0), name), meant)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("test_resnet", "fc.weight"),
        ("test_convnext", "head.fc.weight"),
        ("deit_tiny_distilled_patch16_224", "head_dist.weight"),
    ],
)
def test_the_classifier_is_what_timm_says_it_is_and_dropped_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, head: str
) -> None:
    published = model(name, 1).state_dict()
    file = tmp_path / f"{name}.safetensors"
    save_file(published, file)
    backbone = model(name, 2, num_classes=0)
    load_backbone_file(backbone, file, f"student.weights: {file}")
    require_same(backbone, published)
    said = capsys.readouterr().err
    assert "of the classifier dropped" in said and head in said


def test_position_embeddings_are_resampled_as_timm_does_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = model("test_vit", 1, img_size=160).state_dict()
    backbone = load(tmp_path, {"model": published}, model("test_vit", 2, num_classes=0, img_size=96))
    expected = resample_abs_pos_embed(published["pos_embed"], new_size=[6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(backbone.pos_embed, nn.Parameter(expected))
    assert "pos_embed (1, 101, 64) to (1, 37, 64)" in capsys.readouterr().err


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = model("test_resnet", 1).state_dict()
    counters = [key for key in published if key.endswith("num_batches_tracked")]
    content = {key: value for key, value in published.items() if key not in counters}
    load(tmp_path, content | {"decoder.weight": torch.zeros(2)}, model("test_resnet", 2, num_classes=0))
    said = capsys.readouterr().err
    assert "decoder.weight" in said and f"{len(counters)} counters missing" in said


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: without(state, "conv1.0.weight"), "1 weight(s) missing: conv1.0.weight"),
        (
            lambda state: state | {"layer1.7.conv1.weight": torch.zeros(1)},
            "1 weight(s) of no layer of this backbone: layer1.7.conv1.weight",
        ),
        (
            lambda state: state | {"layer1.0.conv1.weight": torch.zeros(1)},
            "1 weight(s) of another shape: layer1.0.conv1.weight",
        ),
        (
            lambda state: state | {"dist_token": torch.zeros(1, 1, 8)},
            "1 weight(s) of no layer of this backbone: dist_token",
        ),
        (lambda state: {"net": under("trunk/", state)}, "is of another model: has 4 of the 75 weights"),
        (lambda state: {"epoch": 3}, "it holds no tensors by name"),
        (
            lambda state: {"a": state, "b": {key: value + 1 for key, value in state.items()}},
            "several parts of it fit as well: a, b; save the one you mean alone",
        ),
        (  # the letters of ema and target in other words
            lambda state: {"schema": state, "retargeted": {key: value + 1 for key, value in state.items()}},
            "several parts of it fit as well: schema, retargeted; save the one you mean alone",
        ),
        (
            lambda state: {"schema": state, "b": {key: value + 1 for key, value in state.items()}},
            "several parts of it fit as well: schema, b; save the one you mean alone",
        ),
    ],
)
def test_a_checkpoint_that_is_not_the_backbone_s_is_refused(
    tmp_path: Path, change: Callable[[State], Any], problem: str
) -> None:
    content = change(model("test_resnet", 1).state_dict())
    with pytest.raises(ModelError) as caught:
        load(tmp_path, content, model("test_resnet", 2, num_classes=0))
    assert problem in str(caught.value)


def test_weights_of_pretraining_alone_are_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = model("test_vit", 1).state_dict()
    mae = published | {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 9, 8)}
    require_same(load(tmp_path, mae, model("test_vit", 2, num_classes=0)), published)
    assert "left out: decoder_pos_embed, mask_token" in capsys.readouterr().err


def small_nextvit(seed: int, **options: Any) -> nn.Module:
    return model("nextvit_small", seed, depths=(1, 1, 5, 1), stem_chs=(8, 8, 8), **options)


def test_weights_are_matched_by_name_where_timm_goes_by_their_order(tmp_path: Path) -> None:
    published = small_nextvit(1).state_dict()
    shuffled = dict(sorted(published.items()))
    require_same(load(tmp_path, {"model": shuffled}, small_nextvit(2, num_classes=0)), published)
    authors = {f"features.{key}": value for key, value in published.items()}
    foreign = {f"layer{number}": value for number, value in enumerate(published.values())}
    require_same(load(tmp_path, authors, small_nextvit(2, num_classes=0)), published)  # a prefix, no more
    before = (backbone := small_nextvit(2, num_classes=0)).state_dict()
    with pytest.raises(ModelError, match="by their order alone"):
        load(tmp_path, {"model": foreign}, backbone)
    require_same(backbone, before)


class Command:
    """Runs when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    content = {"state_dict": model("test_resnet", 1).state_dict(), "hook": Command(f"touch {ran}")}
    with pytest.raises(ModelError, match=r"holds Python objects besides tensors \(posix.system\)"):
        load(tmp_path, content, model("test_resnet", 2, num_classes=0))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(ModelError, match="not a checkpoint"):
        load_backbone_file(
            model("test_resnet", 1, num_classes=0), tmp_path / name, f"student.weights: {name}"
        )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((f"w/a{suffix}", f"{{folder}}/w/a{suffix}") for suffix in (".pth.tar", ".ckpt", ".pt", ".pth", "")),
        *(
            (f"a{suffix}", f"{{folder}}/a{suffix}")
            for suffix in (".bin", ".safetensors", ".pth.tar", ".ckpt")
        ),
        ("~/a.ckpt", "{home}/a.ckpt"),
        ("/else/a.pth.tar", "/else/a.pth.tar"),
        ("timm:in1k", "timm:in1k"),
        ("builtin", "builtin"),
    ],
)
def test_paths_of_all_kinds_are_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{root: pictures, target: photo}}\nteacher: {{model: ViT-B-16, pretrained: {written}}}\n"
        f"student: {{backbone: resnet50, weights: '{written}'}}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    expected = meant.format(folder=tmp_path.resolve(), home=tmp_path / "home")
    assert recipe.student.weights == expected
    assert recipe.teacher.pretrained == expected
    again = recipe_from_tree(recipe.model_dump(mode="json"), "again")
    assert again == recipe
