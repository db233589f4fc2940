"""How a student is trained: the two stages, augmentation, weight averaging, and what baselines need."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vl2v_deploy.recipe.inputs import Section, Share

Averaging = Literal["swad", "ema", "best", "last", "oracle"]


class AugmentationRecipe(Section):
    """Training augmentation; the defaults are the paper's."""

    crop_scale_min: Annotated[
        float, Field(gt=0.0, le=1.0, description="random resized crop: smallest share of the image's area")
    ] = 0.7
    horizontal_flip: Annotated[Share, Field(description="probability")] = 0.5
    colour_jitter: Annotated[
        float, Field(ge=0.0, le=1.0, description="brightness, contrast and saturation factor range")
    ] = 0.3
    hue_jitter: Annotated[float, Field(ge=0.0, le=0.5, description="hue shift, turns")] = 0.3
    grayscale: Annotated[Share, Field(description="probability")] = 0.1


class SwadRecipe(Section):
    """SWAD's loss-valley rule (Cha et al. 2021, algorithm 1)."""

    converge: Annotated[
        int, Field(ge=1, description="N_s: evaluations that show the start of the valley")
    ] = 3
    tolerance: Annotated[int, Field(ge=1, description="N_e: evaluations over the threshold that end it")] = 6
    ratio: Annotated[float, Field(ge=0.0, description="r: the threshold is (1 + r) times the mean loss")] = (
        0.3
    )


class StageRecipe(Section):
    """One training stage."""

    steps: Annotated[int, Field(ge=1, description="optimizer steps")] = 5000
    batch_per_domain: Annotated[int, Field(ge=1, description="images of each source domain in a step")] = 32
    unlabelled_per_step: Annotated[
        int,
        Field(ge=0, description="images of data.unlabelled in a step besides, with the image term alone"),
    ] = 0
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0, description="of Adam, without weight decay")] = 5e-5
    schedule: Annotated[
        Literal["constant", "cosine"],
        Field(description="of the learning rate after its warm-up: constant, or half a cosine down to 0"),
    ] = "constant"
    warmup: Annotated[
        int | float,
        Field(
            ge=0,
            description="the learning rate rises linearly over so many steps, or, where it is below 1, over "
            "this share of the steps; 0 = none",
        ),
    ] = 0
    image_weight: Annotated[
        Share, Field(description="lambda: weight of the image term; 1 - lambda weighs the text term")
    ] = 0.5
    evaluate_every: Annotated[
        int, Field(ge=1, description="steps between evaluations on the sources' val split; a SWAD segment")
    ] = 200
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            description="the stage ends after so many evaluations in a row without a better accuracy; null = "
            "with its last step, or the end of SWAD's valley",
        ),
    ] = None
    averaging: Annotated[
        Averaging,
        Field(
            description="the weights that a stage ends with: swad = mean over the loss valley, ema = "
            "exponential moving average, best = best on the sources' val split, last = those of the last "
            "step, oracle = best on the target's val split, which no honest result may use"
        ),
    ] = "swad"
    swad: SwadRecipe = SwadRecipe()
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0, description="of averaging: ema, a step")] = 0.999

    @model_validator(mode="after")
    def _warmup_ends(self) -> StageRecipe:
        if self.warmup >= 1 and not float(self.warmup).is_integer():
            raise ValueError(
                f"warmup: {self.warmup:g}: expected whole steps, or a share of the steps below 1"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup: {self.warmup:g}: takes all of the {self.steps} steps; it must end before"
            )
        return self

    @property
    def warmup_steps(self) -> int:
        """Steps until the learning rate is reached."""
        return round(self.warmup * self.steps) if self.warmup < 1 else int(self.warmup)


class AlignRecipe(StageRecipe):
    """Align: backbone frozen, the projector is trained on features computed once."""


class DistillRecipe(StageRecipe):
    """Distill: projector frozen, the backbone is trained on augmented images."""

    augmentation: AugmentationRecipe = AugmentationRecipe()
    precision: Annotated[Literal["fp32", "bf16"], Field(description="bf16 = autocast; weights stay fp32")] = (
        "fp32"
    )
    workers: Annotated[
        int, Field(ge=0, le=64, description="threads that decode and crop ahead; 0 = none")
    ] = 2
    image_cache_gb: Annotated[
        float,
        Field(ge=0.0, description="memory for decoded training images; others are decoded again every time"),
    ] = 2.0
    compile: Annotated[bool, Field(description="torch.compile of the student; pays off in long runs")] = False


class BaselineRecipe(Section):
    """Settings of the methods kd and rise besides cross-entropy."""

    temperature: Annotated[
        float, Field(gt=0.0, description="softens teacher's and student's logits in the KL term")
    ] = 2.0
    kl_weight: Annotated[
        Share, Field(description="kd, rise: weight of KL; 1 - kl_weight of cross-entropy")
    ] = 0.5
    text_weight: Annotated[
        float, Field(ge=0.0, description="rise: weight of 1 - cosine to the class's text embedding")
    ] = 0.5
