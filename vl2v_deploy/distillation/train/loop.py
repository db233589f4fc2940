"""One training loop for every stage of every method. Source: VL2V-ADiP, Align and Distill; SWAD."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.train.checkpoint import DONE, Checkpointer, Progress
from vl2v_deploy.distillation.train.progress import StageProgress
from vl2v_deploy.method.averaging import Averager, start_averaging
from vl2v_deploy.method.hand_over import BestCheckpoint
from vl2v_deploy.method.losses import StudentOutput
from vl2v_deploy.method.patience import is_exhausted
from vl2v_deploy.method.schedule import learning_rate
from vl2v_deploy.models.depthwise import with_depthwise_gradients
from vl2v_deploy.models.record_parts.measured import HandedOver, StageReport
from vl2v_deploy.models.run_directory import METRICS
from vl2v_deploy.models.student import Student
from vl2v_deploy.recipe import AlignRecipe, StageRecipe
from vl2v_deploy.signals import Interrupted, postponed, received


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
    optimizer:  of the parameters
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
    optimizer: torch.optim.Optimizer
    evaluate: Callable[[], tuple[float, float]]
    bf16: bool = False
    compile: bool = False


def run_stage(
    student: Student,
    stage: Stage,
    progress: Progress,
    saver: Checkpointer,
    world: World,
    following: str = DONE,
) -> None:
    """Train `stage.parameters` in place, from where `progress` says; the averaged weights are its result.

    `progress` is kept up to date: in the end it holds the stage's report and says that `following` is next,
    and so does the checkpoint. When the process is told to end, a checkpoint is written first.

    Raises ModelError when the loss is not finite.
    """
    recipe, parameters = stage.recipe, stage.parameters
    _train_only(parameters, student)
    averager = _start_averaging(recipe)
    if progress.optimizer is not None and progress.averager is not None:
        stage.optimizer.load_state_dict(progress.optimizer)
        averager.restore(progress.averager, parameters)
    begin, spent_s = progress.step, progress.seconds.get(stage.name, 0.0)
    log = saver.partial / METRICS if world.is_first else None
    with StageProgress(stage.name, recipe.steps, log, begin) as shown, _together(world):

        def save() -> None:
            if world.is_first:
                with postponed():  # a file that is half written has to be written again
                    progress.seconds[stage.name] = spent_s + shown.training_seconds
                    saver.save_stage(progress, student, stage.optimizer, averager)

        try:
            _train(stage, averager, progress, shown, world, saver.is_due, save)
            with postponed():
                trained_s = shown.training_seconds
                _use(averager.result(parameters), parameters)
                _train_only({}, student)
                progress.seconds[stage.name] = spent_s + trained_s
                progress.reports[stage.name] = _report(progress, begin, spent_s, trained_s, averager)
                world.share_weights(student.state_dict())
                progress.start_stage(following)
                if world.is_first:
                    progress.student = student.state_dict()
                    saver.save(progress)
        except Interrupted:
            if progress.stage == stage.name and progress.step > begin:
                save()
            raise


def _train(
    stage: Stage,
    averager: Averager,
    progress: Progress,
    shown: StageProgress,
    world: World,
    is_due: Callable[[], bool],
    save: Callable[[], None],
) -> None:
    """The steps that are left. Whenever a signal interrupts them, `progress` says where they go on.

    is_due: whether it is time for a checkpoint; save: writes it
    """
    recipe = stage.recipe
    forward, replicas = _forward(stage, world)
    ended = progress.ended
    if progress.unevaluated:
        with shown.paused(torch.zeros(())):
            ended = _evaluate(stage, averager, shown, progress)
    if ended:
        return
    begin = progress.step
    for step, batch in enumerate(stage.batches(range(begin, recipe.steps)), start=begin):
        with postponed():
            stage.optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
            loss = optimizer_step(
                forward, stage.loss, stage.optimizer, batch, bf16=stage.bf16, replicas=replicas
            )
            averager.after_step(step, stage.parameters)
            shown.advance(step, loss, images=len(batch.rows))
            progress.step, progress.unevaluated = step + 1, recipe.evaluates_after(step)
        if progress.unevaluated:
            with shown.paused(loss):
                ended = _evaluate(stage, averager, shown, progress)
        if number := world.greatest(received() or 0):
            raise Interrupted(number)
        if ended:
            return
        if is_due() and progress.step != recipe.steps:
            with shown.paused(loss):
                save()


def _together(world: World) -> AbstractContextManager[None]:
    """Processes that wait for one another stop after the same step, not wherever each gets the signal."""
    return postponed() if world.size > 1 else nullcontext()


def _start_averaging(recipe: StageRecipe) -> Averager:
    averager = start_averaging(recipe)
    if isinstance(recipe, AlignRecipe) and recipe.hand_over == "checkpoint":
        return BestCheckpoint(averager, recipe.hand_over_from)
    return averager


def _train_only(parameters: dict[str, Tensor], student: Student) -> None:
    student.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)


def optimizer_step(
    forward: Callable[[Tensor], StudentOutput],
    loss_of_batch: Callable[[StudentOutput, Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    bf16: bool,
    replicas: int = 1,
) -> Tensor:
    """One optimizer step; the mean loss over this process's part of the batch.

    replicas: over how many processes the mean of the gradients is taken
    """
    with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=bf16):
        output = forward(batch.inputs)
    loss = loss_of_batch(_in_fp32(output), batch)
    optimizer.zero_grad()
    (loss * (len(batch.rows) * replicas / batch.whole)).backward()
    optimizer.step()
    return loss.detach()


def _evaluate(stage: Stage, averager: Averager, shown: StageProgress, progress: Progress) -> bool:
    """Whether the stage is to end, after an evaluation of the weights as they are after the last step."""
    step = progress.step - 1
    val_loss, val_accuracy = stage.evaluate()
    with postponed():
        shown.evaluated(step, val_loss, val_accuracy)
        progress.accuracies.append(val_accuracy)
        is_final = averager.after_evaluation(step, stage.parameters, val_loss, val_accuracy)
        progress.unevaluated = False
        progress.ended = is_final or is_exhausted(progress.accuracies, stage.recipe.patience)
    return progress.ended


def _report(
    progress: Progress, begin: int, spent_s: float, trained_s: float, averager: Averager
) -> StageReport:
    """The stage's part of run.json.

    begin, spent_s: the step and the seconds of training at which this process took over
    trained_s:      seconds of training in this process
    """
    trained = progress.step - begin
    handed_over = None
    if isinstance(averager, BestCheckpoint):
        assert (
            averager.step is not None and averager.accuracy is not None
        )  # the stage goes on until there is one
        handed_over = HandedOver(step=averager.step, accuracy=averager.accuracy)
    return StageReport(
        steps=progress.step,
        seconds=round(spent_s + trained_s, 3),
        steps_per_s=round(trained / trained_s, 3) if trained else None,
        averaging=averager.report(),
        handed_over=handed_over,
    )


def _forward(stage: Stage, world: World) -> tuple[Callable[[Tensor], StudentOutput], int]:
    """The model as it is called, and over how many processes the mean of its gradients is taken.

    That mean, of losses weighted by each process's share of the batch, is the gradient of the whole batch.
    A model that is not a module computes the whole batch in every process.
    """
    model: Any = stage.model
    replicas = 1
    if isinstance(model, nn.Module) and world.size > 1:
        # Frozen BatchNorm: there are no running statistics to be made equal before every step.
        with warnings.catch_warnings():  # its successor, which copies buffers at the start, is no better here
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            model, replicas = DistributedDataParallel(model, broadcast_buffers=False), world.size
    return torch.compile(model) if stage.compile else with_depthwise_gradients(model), replicas


def _in_fp32(output: StudentOutput) -> StudentOutput:
    return StudentOutput(*(None if part is None else part.float() for part in output))


@torch.no_grad()
def _use(result: dict[str, Tensor], parameters: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(result[name])
