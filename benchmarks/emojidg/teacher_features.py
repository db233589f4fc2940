"""The teacher while it is trained: its towers, and the features of everything that stays frozen."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.hf_model import MeanPooler
from open_clip.timm_model import TimmModel
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.emojidg.concepts import Concept
from benchmarks.emojidg.drawings import SIZE_PX
from benchmarks.emojidg.score_teacher import TEMPLATES, read_pictures
from benchmarks.emojidg.teacher_data import (
    Captioned,
    class_captions,
    concept_captions,
    kind_captions,
)
from vl2v_deploy.models.efficientnet_lite import efficientnet_lite_state, package_folder
from vl2v_deploy.models.teacher import builtin

SEED = 7
EMBED_DIM = 256
TEXT_DIM = 384  # MiniLM's
FROZEN_BLOCKS = 5  # of timm's seven stages; the last two (six blocks), last convolution and head are trained
BATCH = 256
VIEWS = 4


@dataclass
class TrainingSet:
    """Frozen image features of every view and frozen text features of every caption."""

    features: Tensor  # (VIEWS, N, C, h, w) bf16: output of the frozen blocks
    text: Tensor  # (M, 384): MiniLM, mean-pooled
    captions: list[tuple[list[int], ...]]  # of each drawing: rows of `text` naming concept, kind and class
    concept: Tensor  # (N,) ids: two drawings of one label are both right for its caption
    kind: Tensor  # (N,) ids of pairs of subgroup and class
    names_kind: Tensor  # (kinds, M) bool: whether a caption names a kind; 'animal' names several


class Heads(nn.Module):
    """What is trained: last blocks and head of the image tower, text projection, temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = TimmModel(
            builtin.TEACHER_BACKBONE, EMBED_DIM, image_size=SIZE_PX, proj="mlp", pretrained=False
        )
        state = efficientnet_lite_state(builtin.TEACHER_BACKBONE)
        self.visual.trunk.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
        self.text_proj = nn.Linear(TEXT_DIM, EMBED_DIM, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.eval().to(memory_format=torch.channels_last)

    def low(self, images: Tensor) -> Tensor:
        """Output of the frozen blocks for normalised images (B, 3, S, S)."""
        trunk: Any = self.visual.trunk
        x = trunk.bn1(trunk.conv_stem(images))
        for block in trunk.blocks[:FROZEN_BLOCKS]:
            x = block(x)
        return torch.as_tensor(x)

    def pooled(self, low: Tensor) -> Tensor:
        """Pooled features (B, 1280) from the frozen blocks' output."""
        trunk: Any = self.visual.trunk
        for block in trunk.blocks[FROZEN_BLOCKS:]:
            low = block(low)
        return torch.as_tensor(trunk.forward_head(trunk.bn2(trunk.conv_head(low))))

    def upper(self) -> list[nn.Module]:
        """The trunk's trained modules."""
        trunk: Any = self.visual.trunk
        return [*trunk.blocks[FROZEN_BLOCKS:], trunk.conv_head, trunk.bn2]


def views_of(picture: Image.Image, rng: random.Random) -> list[Image.Image]:
    """As drawn, then VIEWS - 1 times at random: mirrored, in other colours, turned, smaller, elsewhere."""
    return [picture, *(odd_view(picture, rng) for _ in range(VIEWS - 1))]


def odd_view(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The drawing as another style might have it: what it shows stays, how it is drawn changes."""
    odd = ImageOps.mirror(picture) if rng.random() < 0.4 else picture
    look = rng.random()
    if look < 0.3:
        odd = ImageOps.grayscale(odd).convert("RGB")
    elif look < 0.45:  # two tones, as in black and white icons
        grey = ImageOps.autocontrast(ImageOps.grayscale(odd))
        threshold = rng.randint(90, 200)
        odd = grey.point(lambda value: 255 if value > threshold else 0).convert("RGB")
    elif look < 0.8:
        hue, saturation, value = odd.convert("HSV").split()
        turn = rng.randint(0, 255)
        turned = hue.point(lambda h: (h + turn) % 256)
        odd = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    odd = odd.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, fillcolor="white")
    side = rng.randint(SIZE_PX * 6 // 10, SIZE_PX)
    canvas = Image.new("RGB", picture.size, "white")
    corner = (rng.randint(0, SIZE_PX - side), rng.randint(0, SIZE_PX - side))
    canvas.paste(odd.resize((side, side), Image.Resampling.BICUBIC), corner)
    return canvas


def tensor_from_pictures(pictures: Sequence[Image.Image]) -> Tensor:
    """(B, 3, S, S) with mean = std = 0.5, as the ImageNet weights want it."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def image_features(heads: Heads, drawings: Sequence[Captioned]) -> Tensor:
    """(VIEWS, N, C, h, w) bf16: the frozen blocks' output for each view of each drawing."""
    rng = random.Random(SEED)
    parts = []
    for start in range(0, len(drawings), BATCH):
        views = [views_of(item.picture, rng) for item in drawings[start : start + BATCH]]
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(
                torch.stack(
                    [heads.low(tensor_from_pictures([view[i] for view in views])) for i in range(VIEWS)]
                )
            )
    return torch.cat([part.bfloat16() for part in parts], dim=1)


@torch.inference_mode()
def text_features(captions: Sequence[str]) -> Tensor:
    """(M, 384): MiniLM's mean-pooled output, pooled as open_clip's text tower pools it."""
    folder = package_folder(builtin.MINILM) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False).eval()
    model.load_state_dict(builtin.minilm_state())
    order = sorted(
        range(len(captions)), key=lambda i: len(captions[i])
    )  # like lengths together: less padding
    out = torch.empty(len(captions), TEXT_DIM)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        tokens = tokenizer([captions[i] for i in rows], padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        out[rows] = MeanPooler()(hidden, tokens.attention_mask).float()
    return out


def training_set(features: Tensor, concepts: Sequence[Concept]) -> TrainingSet:
    """What both stages train on.

    features: (VIEWS, N, C, h, w) from `image_features`
    concepts: of each drawing; (N,)
    """
    texts: dict[str, int] = {}
    captions: list[tuple[list[int], ...]] = []
    for concept in concepts:
        levels = (concept_captions(concept), kind_captions(concept), class_captions(concept))
        captions.append(tuple([texts.setdefault(text, len(texts)) for text in level] for level in levels))
    labels = {label: i for i, label in enumerate(sorted({c.label.lower() for c in concepts}))}
    pairs = [(concept.subgroup, str(concept.category)) for concept in concepts]
    ids = {pair: i for i, pair in enumerate(sorted(set(pairs)))}
    names_kind = torch.zeros(len(ids), len(texts), dtype=torch.bool)
    for pair, (_, kind, category) in zip(pairs, captions, strict=True):
        names_kind[ids[pair], kind + category] = True
    return TrainingSet(
        features=features,
        text=text_features(list(texts)),
        captions=captions,
        concept=torch.tensor([labels[concept.label.lower()] for concept in concepts]),
        kind=torch.tensor([ids[pair] for pair in pairs]),
        names_kind=names_kind,
    )


def sample_captions(
    data: TrainingSet, rows: Tensor, shares: Sequence[float], rng: random.Random
) -> tuple[Tensor, Tensor]:
    """One caption a drawing, and which captions are right for which drawings of the batch.

    rows:   (B,) of the drawings
    shares: how often a caption names the concept, its kind only, its class only; without a class, the kind

    Returns (B, 384) frozen text features and (B, B) bool, drawing by caption.
    """
    levels = rng.choices(range(len(shares)), shares, k=len(rows))
    texts, is_concept = [], []
    for row, level in zip(rows.tolist(), levels, strict=True):
        choice = data.captions[row][level] or data.captions[row][1]
        texts.append(rng.choice(choice))
        is_concept.append(level == 0)
    same_concept = data.concept[rows][:, None] == data.concept[rows][None]
    same_kind = data.names_kind[data.kind[rows]][:, texts]
    return data.text[texts], torch.where(torch.tensor(is_concept)[None], same_concept, same_kind)


@torch.inference_mode()
def pooled_features(heads: Heads, data: TrainingSet) -> Tensor:
    """(VIEWS, N, 1280): what stage A trains on."""
    views = [torch.cat([heads.pooled(part.float()) for part in view.split(BATCH)]) for view in data.features]
    return torch.stack(views).clone()


class Validation:
    """EmojiDG's val images as the trained blocks see them: what choices are made on."""

    def __init__(self, heads: Heads) -> None:
        pictures = [p for p in read_pictures() if p.split == "val"]
        self.classes = sorted({p.category for p in pictures})
        self.labels = torch.tensor([self.classes.index(p.category) for p in pictures])  # (N,)
        with torch.inference_mode():
            self.low = heads.low(tensor_from_pictures([p.image for p in pictures])).clone()
        names = [name.replace("_", " ") for name in self.classes]
        self.prompts = text_features([t.format(n) for n in names for t in TEMPLATES])  # (K * templates, 384)

    @torch.inference_mode()
    def accuracy(self, heads: Heads) -> float:
        """Zero-shot accuracy of the teacher as it is now; leaves it in eval mode."""
        heads.eval()
        prompts = F.normalize(heads.text_proj(self.prompts), dim=-1).view(
            len(self.classes), len(TEMPLATES), -1
        )
        logits = heads.visual.head(heads.pooled(self.low)) @ F.normalize(prompts.mean(1), dim=-1).T  # (N, K)
        return float((logits.argmax(1) == self.labels).float().mean())
