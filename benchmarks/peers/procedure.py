"""The authors' training procedure, transcribed in our own words as the yardstick for ours.

What their public code (val-iisc/VL2V-ADiP: trainer, DFC_STAGE1 and DFC_STAGE2, evaluator, data loaders) does,
step by step, none of its lines:

- Each stage is a program of its own: it loads images, teacher and student anew. Distill starts from Align's
  checkpoint with the best accuracy on the sources' held-out images, not from its averaged weights.
- A step takes one batch from a loader of each source domain, drawn with replacement and augmented by
  torchvision in worker processes. In both stages the teacher sees every batch, and the student runs forward
  on it. All in fp32, in PyTorch's default memory format; Adam without weight decay.
- The teacher is fed the student's normalised tensor where both take images of one size. Where they do not,
  a case that theirs does not know, views are made at the larger size, each model gets them resized on the
  device to its own, and the teacher's are normalised for it.
- After every step the whole model goes into a running mean (see deep_copies), anew after each evaluation.
  Every N steps from step 0 on the student is evaluated as by their evaluator's mode "fast": the sources'
  `out`, and both splits of the target; each split through a new loader. At the end the averaged model is
  evaluated once more.

Left out, in their favour: they train one step more to end on an evaluation (here the last step is
evaluated); Align does not backpropagate through the frozen backbone unless asked to, as their code does,
whose optimizer then ignores those gradients; text embeddings are not looked up label by label.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.peers.deep_copies import LossValley, ModelMean
from benchmarks.peers.inputs import Images, augmentation, plain, resized, teacher_input
from vl2v_deploy.data.domains import DomainSet, Sample, load_domains
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.method.losses import adip_loss
from vl2v_deploy.method.zero_shot import zero_shot_logits
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.student import Student, build_student
from vl2v_deploy.models.teacher.load import load_white_box
from vl2v_deploy.models.teacher.protocol import WhiteBox, prompt_classifier, require_logit_scale
from vl2v_deploy.recipe import Recipe, StageRecipe

TEST_BATCH = 128  # their test_batchsize
StageName = Literal["align", "distill"]


@dataclass(frozen=True)
class PeerOptions:
    """What of their procedure can be chosen.

    workers:            processes of each data loader; DomainBed's N_WORKERS is 4. 0 = none
    backbone_gradients: whether Align backpropagates through the backbone, for nothing, as their code does
    """

    workers: int
    backbone_gradients: bool = False


class Clock:
    """Seconds by part of the work; the device is waited for at both ends of a part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[name] += self.now() - started


class Algorithm(nn.Module):
    """Student, zero-shot classifier and optimizer in one module, which SWAD copies as a whole."""

    def __init__(
        self, student: Student, text_emb: Tensor, teacher: WhiteBox, stage: StageName, recipe: StageRecipe
    ) -> None:
        super().__init__()
        self.student, self.stage, self.image_weight = student, stage, recipe.image_weight
        self.text_emb: Tensor
        self.register_buffer("text_emb", text_emb)
        self.logit_scale = require_logit_scale(teacher)
        assert student.projector is not None
        trained = student.projector if stage == "align" else student.backbone
        self.optimizer = torch.optim.Adam(trained.parameters(), lr=recipe.learning_rate)

    def update(self, images: Tensor, labels: Tensor, image_emb: Tensor, backbone_gradients: bool) -> float:
        """One optimizer step; the loss. images (B, 3, S, S), labels (B,), image_emb (B, D)."""
        with torch.set_grad_enabled(self.stage == "distill" or backbone_gradients):
            features = self.student.backbone(images)  # (B, d_s)
        projected = self.student.output(features).projected  # (B, D)
        assert projected is not None
        loss = adip_loss(projected, image_emb, self.text_emb[labels], self.image_weight)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        projected = self.student.output(self.student.backbone(images)).projected
        assert projected is not None
        return zero_shot_logits(projected, self.text_emb, self.logit_scale)


@dataclass(frozen=True)
class Program:
    """What one of their programs holds: built anew for each stage."""

    recipe: Recipe
    stage: StageName
    options: PeerOptions
    device: torch.device
    domain_set: DomainSet
    teacher: WhiteBox
    algorithm: Algorithm
    mean: tuple[float, ...]
    std: tuple[float, ...]
    asked: list[int] = field(default_factory=list)  # images in each query to the teacher

    @property
    def settings(self) -> StageRecipe:
        return self.recipe.align if self.stage == "align" else self.recipe.distill

    @property
    def student_px(self) -> int:
        return self.recipe.student.image_size_px

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """I(x) of a batch, normalised as for the student; (B, 3, S, S) -> (B, D), L2-normalised."""
        self.asked.append(len(images))
        images = teacher_input(self.teacher, images, self.student_px, self.mean, self.std)
        return F.normalize(self.teacher.image_tower.module(images).float(), dim=-1)

    def batches(self) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
        """One batch of every source domain a step; the worker processes start at once."""
        larger_px = max(self.student_px, self.teacher.image_size_px)
        augment = augmentation(self.recipe.distill.augmentation, larger_px, self.mean, self.std)
        count = self.settings.batch_per_domain
        loaders = []
        for domain in self.domain_set.sources(self.recipe.data.target):
            images = Images(self.domain_set.select({domain}, "train"), augment)
            drawn = RandomSampler(images, replacement=True, num_samples=count * self.settings.steps)
            loaders.append(DataLoader(images, count, sampler=drawn, num_workers=self.options.workers))
        return zip(*[iter(loader) for loader in loaders], strict=True)

    @torch.no_grad()
    def score(self, model: Algorithm, samples: Sequence[Sample]) -> tuple[float, float]:
        """Cross-entropy (nats) and accuracy of the model on one split, through a loader made for it."""
        resize = plain(self.student_px, self.mean, self.std)
        loader = DataLoader(Images(samples, resize), TEST_BATCH, num_workers=self.options.workers)
        loss, right = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = model.predict(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
        return loss / len(samples), right / len(samples)

    def evaluate(self, model: Algorithm) -> dict[str, float]:
        """Their evaluator in mode "fast": means over the sources' `out`, and the target's two splits."""
        target = self.recipe.data.target
        sources = [
            self.score(model, self.domain_set.select({domain}, "val"))
            for domain in self.domain_set.sources(target)
        ]
        of_target = [sample for sample in self.domain_set.samples if sample.domain == target]
        target_in = self.score(model, [sample for sample in of_target if sample.split != "val"])
        self.score(model, [sample for sample in of_target if sample.split == "val"])
        return {
            "val_loss": fmean(loss for loss, _ in sources),
            "val_accuracy": fmean(accuracy for _, accuracy in sources),
            "target_accuracy": target_in[1],  # shown, never used
        }


def start_program(stage: StageName, recipe: Recipe, checkpoint: Path | None, options: PeerOptions) -> Program:
    """Images, teacher and student loaded as one of their programs does; `checkpoint` of the stage before."""
    device = require_device(recipe.device)
    domain_set = load_domains(recipe.data)
    teacher = load_white_box(recipe.teacher, "the authors' procedure", recipe.device)
    teacher.image_tower.module.to(memory_format=torch.contiguous_format)  # theirs asks for no other
    prompts = class_prompts(
        recipe.prompts, recipe.data, domain_set.classes, domain_set.domains, recipe.data.target
    )
    text_emb = prompt_classifier(teacher, prompts)
    torch.manual_seed(recipe.seed)
    student = build_student(recipe, teacher.embedding_dim, len(domain_set.classes))
    mean, std = ((buffer / 255).tolist() for buffer in (student.mean, student.std))
    settings = recipe.align if stage == "align" else recipe.distill
    algorithm = Algorithm(student, text_emb, teacher, stage, settings).to(device)
    if checkpoint is not None:
        algorithm.load_state_dict(torch.load(checkpoint, map_location=device, weights_only=True))
    return Program(recipe, stage, options, device, domain_set, teacher, algorithm, tuple(mean), tuple(std))


def train_stage(
    stage: StageName, recipe: Recipe, start: Path | None, best: Path, options: PeerOptions
) -> tuple[Algorithm, dict[str, Any]]:
    """One stage: the averaged model, and the record of the stage; the best checkpoint goes to `best`."""
    clock = Clock(require_device(recipe.device))
    began = clock.now()
    with clock.part("load"):
        program = start_program(stage, recipe, start, options)
        batches = program.batches()
    algorithm, settings = program.algorithm, program.settings
    valley = LossValley(settings.swad)
    with clock.part("copy"):
        segment = ModelMean(algorithm)
    evaluations: list[dict[str, float]] = []
    losses: list[float] = []
    for step, by_domain in enumerate(_timed(batches, clock)):
        with clock.part("train"):
            images, labels = (torch.cat(parts).to(program.device) for parts in zip(*by_domain, strict=True))
            image_emb = program.embed(images)
            seen = resized(images, program.student_px)
            losses.append(algorithm.update(seen, labels, image_emb, options.backbone_gradients))
            segment.add(algorithm, step, step)
        if step % settings.evaluate_every and step + 1 < settings.steps:
            continue
        with clock.part("evaluate"):
            evaluations.append({"step": step} | program.evaluate(algorithm))
        with clock.part("save"):
            # Step 0 does not count: theirs saves from step 100 on, and evaluates every 200.
            later = [found["val_accuracy"] for found in evaluations[1:]]
            if (later and later[-1] == max(later)) or settings.steps == 1:
                torch.save({name: value.cpu() for name, value in algorithm.state_dict().items()}, best)
        with clock.part("copy"):
            valley.close(segment, evaluations[-1]["val_loss"])
            segment = ModelMean(algorithm)
        if valley.dead:
            break
    with clock.part("copy"):
        averaged = valley.result()
        averaged.module.to(program.device)
    with clock.part("evaluate"):
        averaged_score = program.evaluate(_algorithm(averaged))
    clock.seconds["total"] = clock.now() - began
    return _algorithm(averaged), _record(program, clock, losses) | {
        "evaluations": evaluations,
        "averaged": {"first_step": averaged.first, "last_step": averaged.last, "dead": valley.dead}
        | averaged_score,
    }


def _record(program: Program, clock: Clock, losses: Sequence[float]) -> dict[str, Any]:
    """What a stage took; images/s of its steps: the wait for batches and the running mean among them."""
    sources = program.domain_set.sources(program.recipe.data.target)
    images = len(losses) * program.settings.batch_per_domain * len(sources)
    return {
        "steps": len(losses),
        "images": images,
        "images_per_s": images / (clock.seconds["data"] + clock.seconds["train"]),
        "teacher_images": sum(program.asked),
        "seconds": dict(clock.seconds),
        "losses": list(losses),
    }


def _algorithm(mean: ModelMean) -> Algorithm:
    assert isinstance(mean.module, Algorithm)
    return mean.module


def _timed(batches: Iterator[Any], clock: Clock) -> Iterator[Any]:
    """The batches; the wait for each is the part `data`."""
    while True:
        with clock.part("data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def run_authors(recipe: Recipe, options: PeerOptions) -> tuple[Student, Mapping[str, Any]]:
    """Their two stages on a recipe: the averaged student that they would report, and the record of both.

    Raises what loading the data, the teacher or the student raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        aligned, distilled = Path(folder) / "align.pt", Path(folder) / "distill.pt"
        _, align = train_stage("align", recipe, None, aligned, options)
        algorithm, distill = train_stage("distill", recipe, aligned, distilled, options)
    return algorithm.student, {"align": align, "distill": distill}
