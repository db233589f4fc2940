"""How a student is trained: the two stages, augmentation, weight averaging, and what baselines need."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from vl2v_deploy.recipe.inputs import Section, Share, have_class_slots

Averaging = Literal["swad", "ema", "best", "last", "oracle"]


class AugmentationRecipe(Section):
    """Training augmentation; the defaults are the paper's."""

    crop_scale_min: Annotated[
        float,
        Field(
            gt=0.0, le=1.0, description="random resized crop: smallest share of the image's area; 1 = no crop"
        ),
    ] = 0.7
    horizontal_flip: Annotated[Share, Field(description="probability")] = 0.5
    colour_jitter: Annotated[
        float, Field(ge=0.0, le=1.0, description="brightness, contrast and saturation factor range")
    ] = 0.3
    hue_jitter: Annotated[float, Field(ge=0.0, le=0.5, description="hue shift, turns")] = 0.3
    grayscale: Annotated[Share, Field(description="probability")] = 0.1


class SwadRecipe(Section):
    """SWAD's loss-valley rule (Cha et al. 2021)."""

    variant: Annotated[
        Literal["algorithm", "authors"],
        Field(
            description="algorithm = the paper's algorithm 1; authors = what its authors' code computes, "
            "which counts some segments twice and leaves others out"
        ),
    ] = "algorithm"
    segments: Annotated[
        Literal["since_evaluation", "cumulative"],
        Field(
            description="the weights that one segment is the mean of: since_evaluation = those since the "
            "evaluation before; cumulative = those of all steps, begun anew after evaluations at multiples "
            "of 1,000 steps past 2,500 (only with variant: authors)"
        ),
    ] = "since_evaluation"

    converge: Annotated[
        int, Field(ge=1, description="N_s: evaluations that show the start of the valley")
    ] = 3
    tolerance: Annotated[int, Field(ge=1, description="N_e: evaluations over the threshold that end it")] = 6
    ratio: Annotated[float, Field(ge=0.0, description="r: the threshold is (1 + r) times the mean loss")] = (
        0.3
    )

    @model_validator(mode="after")
    def _segments_fit_the_variant(self) -> SwadRecipe:
        if self.segments == "cumulative" and self.variant == "algorithm":
            raise ValueError(
                "segments: cumulative needs variant: authors; algorithm 1 averages each step once, and "
                "cumulative segments overlap"
            )
        return self


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
    evaluate_from_first_step: Annotated[
        bool,
        Field(
            description="the first evaluation is after the first step and the others evaluate_every steps "
            "apart, as DomainBed's; false = the first is after evaluate_every steps. The last step is always "
            "evaluated"
        ),
    ] = False
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
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0, description="of averaging: ema, per step")] = 0.999

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

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows a step, counted from 0."""
        counted = step if self.evaluate_from_first_step else step + 1
        return step == self.steps - 1 or counted % self.evaluate_every == 0


class AlignRecipe(StageRecipe):
    """Align: backbone frozen, the projector is trained on features computed once."""

    hand_over: Annotated[
        Literal["averaged", "checkpoint"],
        Field(
            description="the weights that Distill begins with: averaged = those that averaging ends with; "
            "checkpoint = those, not averaged, of the evaluation with the best accuracy on the sources' val "
            "split, of equals the last; averaging then only decides when the stage ends"
        ),
    ] = "averaged"
    hand_over_from: Annotated[
        int, Field(ge=0, description="step, counted from 0, from which on a checkpoint can be handed over")
    ] = 0

    @model_validator(mode="after")
    def _something_is_handed_over(self) -> AlignRecipe:
        if self.hand_over == "checkpoint" and self.hand_over_from >= self.steps:
            raise ValueError(
                f"hand_over_from: {self.hand_over_from}: no checkpoint is left to hand over, the last of the "
                f"{self.steps} steps is step {self.steps - 1}"
            )
        if self.hand_over == "checkpoint" and self.patience is not None:
            earliest = self.patience * self.evaluate_every
            if earliest < self.hand_over_from:
                raise ValueError(
                    f"patience: {self.patience}: can end the stage after step {earliest}, before there is a "
                    f"checkpoint to hand over; hand_over_from is {self.hand_over_from}"
                )
        return self


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
    frozen: Annotated[
        tuple[str, ...],
        Field(
            description="modules of the backbone that keep their pretrained weights, by timm's names, such "
            "as conv_stem or blocks.0; steps are faster by what need not be differentiated"
        ),
    ] = ()


class BaselineRecipe(Section):
    """Settings of the methods kd and kd_text besides cross-entropy."""

    temperature: Annotated[
        float, Field(gt=0.0, description="softens teacher's and student's logits in the KL term")
    ] = 2.0
    kl_weight: Annotated[
        Share, Field(description="kd, kd_text: weight of KL; 1 - kl_weight of cross-entropy")
    ] = 0.5
    text_weight: Annotated[
        float, Field(ge=0.0, description="kd_text: weight of 1 - cosine to the class's text embedding")
    ] = 0.5


class RiseRecipe(Section):
    """RISE (Huang et al., ICCV 2023); the defaults are those of its authors' code on PACS and VLCS.

    Their search is over temperature 3, kl_weight 0.8 or 0.9 (OfficeHome: 0.1 or 0.2, TerraIncognita: 0.2 or
    0.3) and text_weight 0.5, 1 or 2.
    """

    temperature: Annotated[float, Field(gt=0.0, description="softens both logits in the KL term")] = 3.0
    kl_weight: Annotated[Share, Field(description="w1, of the KL term; 1 - w1 is w2, of cross-entropy")] = 0.9
    text_weight: Annotated[
        float, Field(ge=0.0, description="w3, of the absolute and the relative distance to text embeddings")
    ] = 0.5
    relative_weight: Annotated[float, Field(ge=0.0, description="of the relative distance, beside w3")] = 10.0
    templates: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="of the text embeddings that it learns from; averaged"),
        AfterValidator(have_class_slots),
    ] = (
        "itap of a {class}.",
        "a bad photo of the {class}.",
        "a origami {class}.",
        "a photo of the large {class}.",
        "a {class} in a video game.",
        "art of the {class}.",
        "a photo of the small {class}.",
    )
    anchors: Annotated[
        tuple[str, ...],
        Field(
            description="templates whose embeddings the relative distance compares with; empty = 'an art "
            "painting of a {class}' and so on, one for each source domain. Its authors have 'a bright photo "
            "of a {class}', corrupted, dark and good for VLCS and TerraIncognita"
        ),
        AfterValidator(have_class_slots),
    ] = ()
    learning_rate: Annotated[
        float, Field(gt=0.0, le=1.0, description="of SGD, in place of distill.learning_rate")
    ] = 1e-3
    momentum: Annotated[float, Field(ge=0.0, lt=1.0, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0.0, description="of SGD")] = 5e-4
