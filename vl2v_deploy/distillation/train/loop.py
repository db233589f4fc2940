"""One training loop for every stage of every method. Source: VL2V-ADiP, Align and Distill; SWAD."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.train.checkpoint import Checkpointer, Progress
from vl2v_deploy.distillation.train.progress import StageProgress
from vl2v_deploy.method.averaging import Averager, start_averaging
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.models.run_directory import METRICS
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import StageRecipe


@dataclass(frozen=True)
class Batch:
    """What one step of a stage works on.

    inputs:    whatever the stage's `loss` takes first: images uint8 (B, S, S, 3), or features (B, d_s)
    rows:      (B,) into the training samples
    image_emb: (B, D) of the teacher; None where the method does not ask it
    whole:     how many images the step has in all processes together
    """

    inputs: Tensor
    rows: Tensor
    image_emb: Tensor | None
    whole: int


@dataclass(frozen=True)
class Stage:
    """One stage, ready to be trained.

    name:       align or distill
    parameters: what is trained, by name in the student; all else is frozen
    batches:    the batches of the given steps
    model:      a batch's inputs -> the student's output; a module where processes have to share gradients
    loss:       mean loss over a batch of this process
    evaluate:   (loss, accuracy) of the student as it is, on the images on which weights are selected
    bf16:       whether the model runs under autocast
    compile:    whether the model goes through torch.compile
    """

    name: str
    recipe: StageRecipe
    parameters: dict[str, Tensor]
    batches: Callable[[range], Iterator[Batch]]
    model: nn.Module | Callable[[Tensor], StudentOutput]
    loss: Callable[[StudentOutput, Batch], Tensor]
    evaluate: Callable[[], tuple[float, float]]
    bf16: bool = False
    compile: bool = False


def run_stage(student: Student, stage: Stage, progress: Progress, saver: Checkpointer, world: World) -> None:
    """Train `stage.parameters` in place, from where `progress` says; the averaged weights are its result.

    `progress` is kept up to date and holds the stage's report in the end: steps, images/s, averaging.

    Raises ModelError when the loss is not finite.
    """
    recipe, parameters = stage.recipe, stage.parameters
    student.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(list(parameters.values()), lr=recipe.learning_rate, fused=True)
    averager = start_averaging(recipe)
    if progress.optimizer is not None and progress.averager is not None:
        optimizer.load_state_dict(progress.optimizer)
        averager.restore(progress.averager, parameters)
    begin, spent_s = progress.step, progress.seconds.get(stage.name, 0.0)
    forward, replicas = _forward(stage, world)
    log = saver.partial / METRICS if world.is_first else None
    with StageProgress(stage.name, recipe.steps, log, begin) as shown:
        for step, batch in enumerate(stage.batches(range(begin, recipe.steps)), start=begin):
            with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=stage.bf16):
                output = forward(batch.inputs)
            loss = stage.loss(_in_fp32(output), batch)
            optimizer.zero_grad()
            (loss * (len(batch.rows) * replicas / batch.whole)).backward()
            optimizer.step()
            averager.after_step(step, parameters)
            shown.advance(step, loss.detach(), images=len(batch.rows))
            progress.step = step + 1
            last = progress.step == recipe.steps
            evaluates = last or progress.step % recipe.evaluate_every == 0
            saves = world.is_first and saver.is_due() and not last
            if not evaluates and not saves:
                continue
            loss.item()  # the device finishes its steps: they are not to be counted as evaluation
            pause = time.perf_counter()
            stopped = evaluates and _evaluate(stage, step, averager, shown)
            if saves and not stopped:
                progress.seconds[stage.name] = spent_s + shown.training_seconds
                saver.save_stage(progress, student, optimizer, averager)
            shown.pause(time.perf_counter() - pause)
            if stopped:
                break
        seconds_here = shown.training_seconds
    _use(parameters, averager.result(parameters))
    student.requires_grad_(False)
    progress.seconds[stage.name] = spent_s + seconds_here
    trained_here = progress.step - begin
    progress.reports[stage.name] = {
        "steps": progress.step,
        "seconds": round(spent_s + seconds_here, 3),
        "steps_per_s": round(trained_here / seconds_here, 3) if trained_here else None,
        "averaging": averager.report(),
    }
    progress.step, progress.optimizer, progress.averager = 0, None, None


def _evaluate(stage: Stage, step: int, averager: Averager, shown: StageProgress) -> bool:
    """Whether the stage may stop, after an evaluation of the weights as they are."""
    val_loss, val_accuracy = stage.evaluate()
    shown.evaluated(step, val_loss, val_accuracy)
    return averager.after_evaluation(step, stage.parameters, val_loss, val_accuracy)


def _forward(stage: Stage, world: World) -> tuple[Callable[[Tensor], StudentOutput], int]:
    """The model as it is called, and over how many processes the mean of its gradients is taken.

    That mean, of losses weighted by each process's share of the batch, is the gradient of the whole batch.
    A model that is no module computes the whole batch in every process.
    """
    model: Any = stage.model
    replicas = 1
    if isinstance(model, nn.Module) and world.size > 1:
        # Frozen BatchNorm: there are no running statistics to be made equal before every step.
        model, replicas = DistributedDataParallel(model, broadcast_buffers=False), world.size
    if stage.compile:
        model = torch.compile(model)
    return model, replicas


def _in_fp32(output: StudentOutput) -> StudentOutput:
    return StudentOutput(*(None if part is None else part.float() for part in output))


@torch.no_grad()
def _use(parameters: dict[str, Tensor], result: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(result[name])
