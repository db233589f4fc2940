"""Trains the built-in teacher: emojidg_teacher.safetensors and .json in demo_data/vl2v_deploy_demo.

    python -m benchmarks.emojidg.train_teacher [--packages DIR] [--cache DIR] [--epochs 8]

An open_clip dual tower, tuned the LiT way: the text tower (MiniLM) stays frozen. Stage A trains both
projection heads on frozen image features; stage B goes on with the image tower's last blocks. All below those
blocks is frozen, so its output is computed once for four views of each drawing and kept in memory. What is
chosen is chosen on EmojiDG's val concepts; no number of the test concepts is computed here.
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

from benchmarks.emojidg.build import DEMO_DATA
from benchmarks.emojidg.drawings import DOMAINS, EXTRA_STYLES, SIZE_PX, install_packages
from benchmarks.emojidg.icons import ICON_PACKAGES
from benchmarks.emojidg.score_teacher import TEMPLATES, score_teacher, versions
from benchmarks.emojidg.teacher_data import training_drawings
from benchmarks.emojidg.teacher_features import (
    BATCH,
    EMBED_DIM,
    FROZEN_BLOCKS,
    SEED,
    VIEWS,
    Heads,
    TrainingSet,
    Validation,
    image_features,
    pooled_features,
    sample_captions,
    training_set,
)
from vl2v_deploy.models.teacher import builtin

CAPTION_SHARES = (0.4, 0.25, 0.35)  # how often a caption names the concept, its kind only, its class only
AVERAGE_DECAY = 0.995  # of the weights' running average: about the last 200 steps
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


class Averaged:
    """Running average of a module's weights: less noise at the end than the last step has."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.mean = {k: v.detach().clone() for k, v in heads.state_dict().items() if v.is_floating_point()}
        self.steps = 0

    def update(self) -> None:
        """Takes the present weights in; the first steps weigh less and less, as the average warms up."""
        self.steps += 1
        keep = min(AVERAGE_DECAY, (1 + self.steps) / (10 + self.steps))
        state = self.heads.state_dict()
        for key, mean in self.mean.items():
            mean.lerp_(state[key], 1 - keep)

    def load(self) -> None:
        """Puts the average in the module's place."""
        self.heads.load_state_dict(self.heads.state_dict() | self.mean)


def train_stage(
    heads: Heads, data: TrainingSet, val: Validation, epochs: int, rate: float, tune_blocks: bool
) -> list[dict[str, float]]:
    """Mean loss and val accuracy of each epoch; trains the heads, and with `tune_blocks` the last blocks too.

    At its end `heads` holds the average of the weights, whose val accuracy is the last entry's.
    """
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
    averaged = Averaged(heads)
    log = []
    for epoch in range(epochs):
        start_s, total = time.perf_counter(), 0.0
        order = torch.randperm(count, generator=order_rng)
        for rows in order.split(BATCH)[: count // BATCH]:  # BatchNorm wants full batches
            view = rng.randrange(VIEWS)
            image = heads.pooled(data.features[view, rows].float()) if pooled is None else pooled[view, rows]
            image = heads.visual.head(image)
            text, right = sample_captions(data, rows, CAPTION_SHARES, rng)
            text = heads.text_proj(text)
            cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T  # (B, B)
            loss = contrastive_loss(heads.logit_scale.exp() * cosine, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            heads.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
            averaged.update()
            total += loss.item() / (count // BATCH)
        if epoch == epochs - 1:
            averaged.load()
        log.append({"loss": round(total, 4), "val_accuracy": round(val.accuracy(heads), 4)})
        print(f"epoch {epoch + 1}/{epochs}: {log[-1]}, {time.perf_counter() - start_s:.0f} s", flush=True)
        for module in trained:
            module.train()
    heads.eval()
    return log


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
    weights = save({k: v.contiguous() for k, v in state.items()})
    record_text = json.dumps(record, indent=2) + "\n"
    written = {builtin.TEACHER_WEIGHTS: weights, builtin.TEACHER_RECORD: record_text.encode()}
    for name, data in written.items():
        file = DEMO_DATA / name
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
    parser.add_argument("--epochs", type=int, default=8, help="of stage B; 0 leaves the image tower as it is")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    start_s = time.perf_counter()
    heads = Heads()
    with tempfile.TemporaryDirectory() as scratch:
        kept = (options.cache or Path(scratch)) / "features.pt"
        if kept.is_file():
            features, concepts, counts = torch.load(kept, weights_only=False)
        else:
            packages = DOMAINS | EXTRA_STYLES | ICON_PACKAGES
            drawings, counts = training_drawings(
                install_packages(options.packages or Path(scratch), packages)
            )
            features, concepts = image_features(heads, drawings), [item.concept for item in drawings]
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save((features, concepts, counts), kept)
    data, val = training_set(features, concepts), Validation(heads)
    print(f"{len(concepts)} drawings, {len(data.text)} captions, {time.perf_counter() - start_s:.0f} s")
    log = {"A": train_stage(heads, data, val, 15, 2e-3, tune_blocks=False)}
    if options.epochs:
        log["B"] = train_stage(heads, data, val, options.epochs, 5e-4, tune_blocks=True)
    record: dict[str, Any] = {
        "open_clip_config": open_clip_config(),
        "command": f"python -m benchmarks.emojidg.train_teacher --epochs {options.epochs}",
        "training": {
            "seed": SEED,
            "drawings": {style: dict(count) for style, count in counts.items()},
            "captions": len(data.text),
            "epochs": log,
            "seconds": round(time.perf_counter() - start_s),
        },
    }
    save_teacher(heads, record)
    record |= {"templates": list(TEMPLATES), "logit_scale": round(heads.logit_scale.exp().item(), 3)}
    # the test images are for score_teacher --test, once, when all is chosen
    record |= {"versions": versions(), "val": score_teacher("val")}
    save_teacher(heads, record)


if __name__ == "__main__":
    main()
