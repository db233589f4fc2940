"""Dual encoders of Hugging Face transformers, against the library's own answers on the same tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from tests.helpers.teachers import SIZE_PX, WORDS, write_clip, write_siglip
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import Teacher, embed_pixels
from vl2v_deploy.recipe import TransformersRecipe

TEXTS = ["a photo of a cat", "the dog", " ".join(WORDS * 2)]  # the last one is longer than 12 tokens
WRITE = {"clip": write_clip, "siglip": write_siglip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name) / name) for name, write in WRITE.items()}


def load(folder: Path, **more: object) -> Teacher:
    tree = {"kind": "transformers", "model": f"local-dir:{folder}", "batch_size": 4, **more}
    return load_teacher(TransformersRecipe.model_validate(tree))


def features(answer: Any) -> Tensor:
    """Of transformers 5, which gives an object, or of 4, which gives the tensor."""
    found: Tensor = getattr(answer, "pooler_output", answer)
    return found


def some_images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = ((40, 60), (SIZE_PX, SIZE_PX), (90, 33))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("name", WRITE)
def test_it_answers_as_transformers_does(folders: dict[str, Path], name: str) -> None:
    teacher, folder = load(folders[name]), folders[name]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=some_images(), return_tensors="pt")
    with torch.no_grad():
        image_emb = features(model.get_image_features(**pixels))
        text_emb = torch.cat(
            [
                features(
                    model.get_text_features(
                        **tokenizer(
                            text,
                            padding="max_length" if name == "siglip" else False,
                            max_length=12,
                            truncation=True,
                            return_tensors="pt",
                        )
                    )
                )
                for text in TEXTS
            ]
        )
    normalize = torch.nn.functional.normalize
    torch.testing.assert_close(teacher.embed_images(some_images()), normalize(image_emb), atol=1e-5, rtol=0)
    # alone and together: SigLIP's answer would depend on how far a text is filled up
    alone = torch.cat([teacher.embed_texts([text]) for text in TEXTS])
    for rows in (alone, teacher.embed_texts(TEXTS)):
        torch.testing.assert_close(rows, normalize(text_emb), atol=1e-5, rtol=0)
    assert (teacher.image_size_px, teacher.embedding_dim) == (SIZE_PX, image_emb.shape[1])
    assert teacher.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert load(folder, logit_scale=7.0).logit_scale == 7.0


def test_an_image_s_bits_do_not_depend_on_its_query(folders: dict[str, Path]) -> None:
    teacher, images = load(folders["clip"]), some_images()
    alone = torch.cat([teacher.embed_images([image]) for image in images])
    assert torch.equal(alone, teacher.embed_images(images))


def test_pixels_are_embedded_as_the_image_of_them(folders: dict[str, Path]) -> None:
    teacher = load(folders["siglip"])
    pixels = torch.randint(256, (3, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(image) for image in pixels.numpy()]
    assert torch.equal(embed_pixels(teacher, pixels), teacher.embed_images(images))


def test_tensors_as_transformers_4_gives_them_are_taken(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load(folders["clip"])
    expected = teacher.embed_images(some_images())
    model = teacher.model  # type: ignore[attr-defined]
    real = model.get_image_features

    def plain(**inputs: Tensor) -> Tensor:
        return features(real(**inputs))

    monkeypatch.setattr(model, "get_image_features", plain)
    assert torch.equal(teacher.embed_images(some_images()), expected)
    monkeypatch.setattr(model, "get_image_features", lambda **inputs: SimpleNamespace())
    with pytest.raises(ModelError, match=r"expected features \(B, D\), got SimpleNamespace"):
        teacher.embed_images(some_images())


def test_what_cannot_be_loaded_says_why(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelError, match="nobody/nothing cannot be loaded"):
        load_teacher(TransformersRecipe(kind="transformers", model="nobody/nothing"))
    half = write_clip(tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("text_projection")}
    save_file(kept, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight\(s\) missing, the first is text_projection\.weight"):
        load(half)
    config = json.loads((folders["clip"] / "config.json").read_text())["text_config"]
    single = write_clip(tmp_path / "single")
    (single / "config.json").write_text(json.dumps(config | {"model_type": "clip_text_model"}))
    with pytest.raises(ModelError, match=r"is no dual encoder|cannot be loaded"):
        load(single)
