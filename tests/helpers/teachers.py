"""Teachers of every kind in miniature, written to folders: what the contract suite runs on."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = ["a", "photo", "of", "cat", "dog", "circle", "square", "ink", "paint", "the", "sketch"]
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
SIZE_PX = 32


def write_clip(folder: Path, seed: int = 0, positions: int = 12) -> Path:
    """A random CLIP with tokenizer and image processor, as transformers saves them.

    positions: tokens that the text tower takes
    """
    tokenizer = _tokenizer()
    text = _tower(vocab_size=len(tokenizer), max_position_embeddings=positions)
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=8)
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": SIZE_PX}, {"height": SIZE_PX, "width": SIZE_PX}
    CLIPImageProcessor(size=size[0], crop_size=size[1]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """A random SigLIP; its tokenizer gives no attention mask, as the published ones do not."""
    tokenizer = _tokenizer(model_input_names=["input_ids"])
    text = _tower(vocab_size=len(tokenizer), max_position_embeddings=12)
    config = SiglipConfig(text_config=text, vision_config=_vision())
    torch.manual_seed(seed)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIZE_PX, "width": SIZE_PX}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_npz(folder: Path, images: Sequence[Path], texts: Sequence[str], seed: int = 0) -> Path:
    """images.npz by content and texts.npz by prompt, of 8 dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in images]
    np.savez(folder / "images.npz", sha256=keys, embedding=rng.normal(size=(len(keys), 8)))
    np.savez(folder / "texts.npz", text=list(texts), embedding=rng.normal(size=(len(texts), 8)))
    return folder


class ColourTeacher:
    """A user's own teacher: an image's four mean colours, a text's letters, each mapped to 8 numbers.

    It is plain Python: no base class, and torch only for the answer.
    """

    embedding_dim, image_size_px, batch_size, price = 8, 16, 4, None

    def __init__(self, seed: int = 0, logit_scale: float | None = 10.0) -> None:
        self.identity, self.logit_scale = f"colour@{seed}", logit_scale
        self._to_embedding = torch.from_numpy(np.random.default_rng(seed).normal(size=(26, 8))).float()

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        colours = [np.asarray(image.convert("RGB").resize((2, 2))).ravel() for image in images]
        return self._embed(np.stack(colours) + 1.0)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        counts = [[text.count(letter) for letter in string.ascii_lowercase] for text in texts]
        return self._embed(np.array(counts))

    def _embed(self, numbers: np.ndarray) -> Tensor:
        rows = torch.from_numpy(numbers).float() @ self._to_embedding[: numbers.shape[1]]
        return torch.nn.functional.normalize(rows, dim=1)


def _tower(**more: int) -> dict[str, int]:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    } | more


def _vision() -> dict[str, int]:
    return _tower(image_size=SIZE_PX, patch_size=16)


def _tokenizer(**options: object) -> PreTrainedTokenizerFast:
    """Whole words; START and END around them."""
    vocabulary = {word: number for number, word in enumerate((PAD, START, *WORDS, UNKNOWN, END))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=12,
        **options,
    )
