"""Trains the built-in teacher: vl2v_deploy/builtin/emojidg_teacher.safetensors and .json.

    python -m benchmarks.emojidg.train_teacher [--packages DIR] [--cache DIR] [--epochs 5]

An open_clip dual tower, tuned the LiT way: the text tower (MiniLM) stays frozen. Stage A trains both
projection heads on frozen image features; stage B goes on with the image tower's last blocks. All below those
blocks is frozen, so its output is computed once for three views of each drawing and kept in memory.
"""

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.emojidg.drawings import DOMAINS, EXTRA_STYLES, SIZE_PX, install_packages
from benchmarks.emojidg.score_teacher import score_teacher
from benchmarks.emojidg.teacher_data import training_drawings
from benchmarks.emojidg.teacher_features import (
    BATCH,
    EMBED_DIM,
    FROZEN_BLOCKS,
    SEED,
    VIEWS,
    Heads,
    TrainingSet,
    pooled_features,
    sample_captions,
    training_set,
)
from vl2v_deploy.models import builtin

KIND_SHARE = 0.6  # how often a drawing's caption names its kind only
MAX_LOGIT_SCALE = math.log(100)


def contrastive_loss(logits: Tensor, right: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where a row or column may have several right answers; scalar.

    logits: (B, B) image by text
    right:  (B, B) bool, the diagonal among them
    """
    target = right.float()
    to_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    to_image = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (to_text + to_image) / 2


def train_stage(heads: Heads, data: TrainingSet, epochs: int, rate: float, tune_blocks: bool) -> list[float]:
    """Mean loss of each epoch; trains the heads, and with `tune_blocks` the image tower's last blocks."""
    rng, order_rng = random.Random(SEED), torch.Generator().manual_seed(SEED)
    trained: list[nn.Module] = [heads.visual.head, heads.text_proj, *(heads.upper() if tune_blocks else [])]
    heads.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True).train()
    heads.logit_scale.requires_grad_(True)
    count = data.features.shape[1]
    pooled = None if tune_blocks else pooled_features(heads, data)
    optimizer = torch.optim.AdamW(
        [p for p in heads.parameters() if p.requires_grad], lr=rate, weight_decay=0.05
    )
    steps = epochs * (count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for epoch in range(epochs):
        start_s, total = time.perf_counter(), 0.0
        order = torch.randperm(count, generator=order_rng)
        for rows in order.split(BATCH)[: count // BATCH]:  # BatchNorm wants full batches
            view = rng.randrange(VIEWS)
            with torch.autocast("cpu", torch.bfloat16):
                image = heads.pooled(data.features[view, rows]) if pooled is None else pooled[view, rows]
                image = heads.visual.head(image)
                text, right = sample_captions(data, rows, KIND_SHARE, rng)
                text = heads.text_proj(text)
            cosine = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T  # (B, B)
            loss = contrastive_loss(heads.logit_scale.exp() * cosine, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            heads.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
            total += loss.item() / (count // BATCH)
        losses.append(round(total, 4))
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total:.4f}, {time.perf_counter() - start_s:.0f} s", flush=True
        )
    heads.eval()
    return losses


def save_teacher(heads: Heads, record: dict[str, Any]) -> None:
    """Writes what PyPI does not carry, in open_clip's names: tuned blocks and heads in fp16."""
    tuned = (
        *(f"trunk.blocks.{i}." for i in range(FROZEN_BLOCKS, 7)),
        "trunk.conv_head.",
        "trunk.bn2.",
        "head.",
    )
    state = {f"visual.{k}": v for k, v in heads.visual.state_dict().items() if k.startswith(tuned)}
    state["text.proj.weight"] = heads.text_proj.weight
    state = {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
    state["logit_scale"] = heads.logit_scale.detach().float()
    builtin.BUILTIN.mkdir(exist_ok=True)
    weights = save({k: v.contiguous() for k, v in state.items()})
    record_text = json.dumps(record, indent=2) + "\n"
    for file, data in ((builtin.TEACHER_WEIGHTS, weights), (builtin.TEACHER_RECORD, record_text.encode())):
        partial = file.with_suffix(".partial")  # a reader never sees half a file
        partial.write_bytes(data)
        partial.replace(file)


def open_clip_config() -> dict[str, Any]:
    """open_clip's config of the teacher; `assemble_teacher` fills in where the text tower's files are."""
    vision = {"timm_model_name": builtin.TEACHER_BACKBONE, "timm_pool": "avg", "timm_proj": "mlp"}
    text = {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler", "context_length": 32}
    return {
        "model_cfg": {
            "embed_dim": EMBED_DIM,
            "vision_cfg": vision | {"image_size": SIZE_PX},
            "text_cfg": text,
        },
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def main() -> None:
    """Trains, saves, scores; prints and records the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", type=Path, help="npm folder to fill or to use again [default: temporary]"
    )
    parser.add_argument(
        "--cache", type=Path, help="keep features here between runs; delete it when data change"
    )
    parser.add_argument("--epochs", type=int, default=5, help="of stage B; 0 leaves the image tower as it is")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    start_s = time.perf_counter()
    heads = Heads()
    with tempfile.TemporaryDirectory() as scratch:
        kept = (options.cache or Path(scratch)) / "features.pt"
        if kept.is_file():
            data, counts = torch.load(kept, weights_only=False)
        else:
            modules = install_packages(options.packages or Path(scratch), DOMAINS | EXTRA_STYLES)
            drawings, counts = training_drawings(modules)
            data = training_set(heads, drawings)
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save((data, counts), kept)
    print(
        f"{data.features.shape[1]} drawings, {len(data.text)} captions, {time.perf_counter() - start_s:.0f} s"
    )
    losses = {"A": train_stage(heads, data, 15, 2e-3, tune_blocks=False)}
    if options.epochs:
        losses["B"] = train_stage(heads, data, options.epochs, 5e-4, tune_blocks=True)
    record: dict[str, Any] = {
        "open_clip_config": open_clip_config(),
        "command": f"python -m benchmarks.emojidg.train_teacher --epochs {options.epochs}",
        "training": {
            "seed": SEED,
            "drawings": {style: dict(count) for style, count in counts.items()},
            "captions": len(data.text),
            "loss_by_epoch": losses,
            "seconds": round(time.perf_counter() - start_s),
        },
    }
    save_teacher(heads, record)
    record |= score_teacher()
    save_teacher(heads, record)


if __name__ == "__main__":
    main()
