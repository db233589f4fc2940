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
from transformers import AutoConfig, AutoModel, AutoTokenizer

from benchmarks.emojidg.drawings import SIZE_PX
from benchmarks.emojidg.teacher_data import Captioned, concept_captions, kind_captions
from vl2v_deploy.models import builtin

SEED = 7
EMBED_DIM = 256
TEXT_DIM = 384  # MiniLM's
FROZEN_BLOCKS = 5  # of timm's seven stages; the last two (six blocks), last convolution and head are trained
BATCH = 256
VIEWS = 3


@dataclass
class TrainingSet:
    """Frozen image features of every view and frozen text features of every caption."""

    features: Tensor  # (VIEWS, N, C, h, w) bf16: output of the frozen blocks
    text: Tensor  # (M, 384): MiniLM, mean-pooled
    captions: list[
        tuple[list[int], list[int]]
    ]  # of each drawing: rows of `text` naming the concept, the kind
    concept: Tensor  # (N,) ids: two drawings of one emoji are both right for its caption
    kind: Tensor  # (N,) ids of emojibase's subgroups
    names_kind: Tensor  # (kinds, M) bool: whether a caption names a kind; 'animal' names several


class Heads(nn.Module):
    """What is trained: last blocks and head of the image tower, text projection, temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = TimmModel(
            builtin.TEACHER_BACKBONE, EMBED_DIM, image_size=SIZE_PX, proj="mlp", pretrained=False
        )
        state = builtin.efficientnet_lite_state(builtin.TEACHER_BACKBONE)
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
    """As drawn; mirrored; and mirrored, grey and smaller at random."""
    odd = ImageOps.mirror(picture) if rng.random() < 0.5 else picture
    if rng.random() < 0.6:
        odd = odd.convert("L").convert("RGB")
    side = rng.randint(SIZE_PX * 6 // 10, SIZE_PX)
    canvas = Image.new("RGB", picture.size, "white")
    corner = (rng.randint(0, SIZE_PX - side), rng.randint(0, SIZE_PX - side))
    canvas.paste(odd.resize((side, side), Image.Resampling.BICUBIC), corner)
    return [picture, ImageOps.mirror(picture), canvas]


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
    folder = builtin.package_folder(builtin.MINILM) / "model"
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


def training_set(heads: Heads, drawings: Sequence[Captioned]) -> TrainingSet:
    """Features and captions of all drawings."""
    texts: dict[str, int] = {}
    captions = []
    for item in drawings:
        concept = [texts.setdefault(text, len(texts)) for text in concept_captions(item.concept, item.style)]
        kind = [texts.setdefault(text, len(texts)) for text in kind_captions(item.concept)]
        captions.append((concept, kind))
    codes = {code: i for i, code in enumerate(sorted({item.concept.code for item in drawings}))}
    subgroups = {name: i for i, name in enumerate(sorted({item.concept.subgroup for item in drawings}))}
    kinds = [subgroups[item.concept.subgroup] for item in drawings]
    names_kind = torch.zeros(len(subgroups), len(texts), dtype=torch.bool)
    for kind_id, (_, rows) in zip(kinds, captions, strict=True):
        names_kind[kind_id, rows] = True
    return TrainingSet(
        features=image_features(heads, drawings),
        text=text_features(list(texts)),
        captions=captions,
        concept=torch.tensor([codes[item.concept.code] for item in drawings]),
        kind=torch.tensor(kinds),
        names_kind=names_kind,
    )


def sample_captions(
    data: TrainingSet, rows: Tensor, kind_share: float, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """One caption a drawing, and which captions are right for which drawings of the batch.

    rows:       (B,) of the drawings
    kind_share: how often a caption names its drawing's kind only

    Returns (B, 384) frozen text features and (B, B) bool, drawing by caption.
    """
    is_kind = torch.tensor([rng.random() < kind_share for _ in rows])
    pairs = zip(rows.tolist(), is_kind.tolist(), strict=True)
    texts = torch.tensor([rng.choice(data.captions[row][kind]) for row, kind in pairs])
    same_concept = data.concept[rows][:, None] == data.concept[rows][None]
    same_kind = data.names_kind[data.kind[rows]][:, texts]
    return data.text[texts], torch.where(is_kind[None], same_kind, same_concept)


@torch.inference_mode()
def pooled_features(heads: Heads, data: TrainingSet) -> Tensor:
    """(VIEWS, N, 1280): what stage A trains on."""
    with torch.autocast("cpu", torch.bfloat16):
        views = [
            torch.cat([heads.pooled(part).float() for part in view.split(BATCH)]) for view in data.features
        ]
    return torch.stack(views).clone()
