"""The table of methods: what each one trains, asks the teacher, predicts with and is called.

Every other module reads the rows and lists no methods of its own. A new method is one row here and, unless it
shares another's, one loss in `method/losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

StageName = Literal["align", "distill"]
STAGES: tuple[StageName, ...] = get_args(StageName)
Part = Literal["backbone", "projector", "head"]

DEFAULT_METHOD = "adip"
# What older records call a method that has another name today: until RISE was RISE, that name meant this one.
RENAMED = {"rise": "kd_text"}
RISE_SECTION = "rise"  # of a recipe


@dataclass(frozen=True)
class Method:
    """One row of the table.

    label:          its name in tables and figures
    predictor:      whose accuracy is measured: its student's, that of a linear probe of the pretrained
                    student, the zero-shot teacher's, or that of a linear probe of the teacher
    student:        the parts of the student that it leaves; empty when it leaves none
    tower:          whether the student's backbone is the teacher's own image tower
    stages:         its training stages in order, and the parts of the student that each one trains
    loss:           key of `method.losses.LOSSES`; None without stages
    teacher_images: whether the loss needs the teacher's embedding of each training image; `weighted` = where
                    lambda is above 0
    image_weight:   lambda, where the method fixes it; None = the recipe's
    head_on:        what its linear head is on: the backbone's features, or what the projector makes of them;
                    the latter begins as a zero-shot classifier
    optimizer:      sgd has its settings in the recipe's section `rise`
    own_texts:      whether it learns from the texts of that section, besides or in place of the prompts
    unlabelled:     whether it can train on images without labels
    paper:          where it was published; empty for what no one paper has
    unused:         recipe fields that change nothing, by dotted name; a section ends in a dot
    """

    label: str
    predictor: Literal["student", "probe_of_student", "teacher", "probe_of_teacher"] = "student"
    student: tuple[Part, ...] = ()
    tower: bool = False
    stages: Mapping[StageName, tuple[Part, ...]] = field(default_factory=dict)
    loss: str | None = None
    teacher_images: Literal["never", "weighted", "always"] = "never"
    image_weight: float | None = None
    head_on: Literal["features", "projected"] = "features"
    optimizer: Literal["adam", "sgd"] = "adam"
    own_texts: bool = False
    unlabelled: bool = False
    paper: str = ""
    unused: tuple[str, ...] = ()

    @property
    def has_lambda(self) -> bool:
        """Whether the recipe's lambda (`image_weight` of a stage) changes what is trained."""
        return self.teacher_images == "weighted" and self.image_weight is None

    @property
    def needs_image_embeddings(self) -> bool:
        """Whether it can do nothing with an image of which there is no teacher embedding."""
        asks = self.teacher_images == "always" or self.image_weight == 1.0
        return asks or self.predictor in ("teacher", "probe_of_teacher")


_UNLABELLED = (
    *("data.unlabelled", "align.unlabelled_per_step", "distill.unlabelled_per_step"),
    "teacher_labels",
)
_TRAINING = (
    "align.",
    "distill.",
    "baseline.",
    "rise.",
    "teacher_views",
    "missing_embeddings",
    "teacher_labels",
    "data.unlabelled",
)
_FIXED_LAMBDA = ("baseline.", "rise.", "align.image_weight", "distill.image_weight")
_VL2V = (
    "Addepalli, Asokan, Sharma, Babu, Leveraging Vision-Language Models for Improving Domain Generalization "
    "in Image Classification, CVPR 2024 (arXiv 2310.08255)"
)
_KD = "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531)"
_RISE = (
    "Huang et al., A Sentence Speaks a Thousand Images: Domain Generalization through Distilling CLIP with "
    "Language Guidance, ICCV 2023"
)
_PAPERS_STAGES: dict[StageName, tuple[Part, ...]] = {"align": ("projector",), "distill": ("backbone",)}

# In the order of a table: the teacher, baselines, ablations, the paper's own methods.
METHODS: dict[str, Method] = {
    # the teacher itself
    "zero_shot": Method("zero-shot teacher", predictor="teacher", unused=(*_TRAINING, "student.")),
    # linear head on the teacher's image embeddings
    "teacher_probe": Method(
        "linear probe of the teacher",
        predictor="probe_of_teacher",
        unused=(*_TRAINING, "student.", "prompts."),
    ),
    # linear head on the frozen pretrained backbone
    "linear_probe": Method(
        "linear probe of the student",
        predictor="probe_of_student",
        student=("backbone", "head"),
        unused=(*_TRAINING, "prompts."),
    ),
    # cross-entropy on a linear head, backbone and head together
    "erm": Method(
        "ERM",
        student=("backbone", "head"),
        stages={"distill": ("backbone", "head")},
        loss="erm",
        unused=(
            *("align.", "baseline.", "rise.", "prompts.", "teacher_views", "missing_embeddings"),
            *("distill.image_weight", *_UNLABELLED),
        ),
    ),
    # ERM + KL to the teacher's zero-shot probabilities
    "kd": Method(
        "KD",
        student=("backbone", "head"),
        stages={"distill": ("backbone", "head")},
        loss="kd",
        teacher_images="always",
        unlabelled=True,
        paper=_KD,
        unused=("align.", "rise.", "baseline.text_weight", "distill.image_weight"),
    ),
    # KD + cosine to the text embedding of the class
    "kd_text": Method(
        "KD + text",
        student=("backbone", "projector", "head"),
        stages={"distill": ("backbone", "projector", "head")},
        loss="kd_text",
        teacher_images="always",
        unused=("align.", "rise.", "distill.image_weight", *_UNLABELLED),
    ),
    # RISE, as its authors' code: KD + absolute and relative distance to text embeddings
    "rise": Method(
        "RISE",
        student=("backbone", "projector", "head"),
        stages={"distill": ("backbone", "projector", "head")},
        loss="rise",
        teacher_images="always",
        head_on="projected",
        optimizer="sgd",
        own_texts=True,
        paper=_RISE,
        unused=("align.", "baseline.", "distill.image_weight", "distill.learning_rate", *_UNLABELLED),
    ),
    "image_only": Method(
        "image only",
        student=("backbone", "projector"),
        stages=_PAPERS_STAGES,
        loss="adip",
        teacher_images="weighted",
        unlabelled=True,
        image_weight=1.0,
        paper=_VL2V,
        unused=_FIXED_LAMBDA,
    ),
    "text_only": Method(
        "text only",
        student=("backbone", "projector"),
        stages=_PAPERS_STAGES,
        loss="adip",
        teacher_images="weighted",
        image_weight=0.0,
        paper=_VL2V,
        unused=(*_FIXED_LAMBDA, *_UNLABELLED),
    ),
    # one stage trains backbone and projector together
    "no_align": Method(
        "without Align",
        student=("backbone", "projector"),
        stages={"distill": ("backbone", "projector")},
        loss="adip",
        teacher_images="weighted",
        unlabelled=True,
        paper=_VL2V,
        unused=("baseline.", "rise.", "align."),
    ),
    # the paper's method: Align, then Distill
    "adip": Method(
        "VL2V-ADiP",
        student=("backbone", "projector"),
        stages=_PAPERS_STAGES,
        loss="adip",
        teacher_images="weighted",
        unlabelled=True,
        paper=_VL2V,
        unused=("baseline.", "rise."),
    ),
    # the paper's self-distillation: the teacher's own tower and projection, Distill only
    "self_distill": Method(
        "VL2V-SD",
        student=("backbone", "projector"),
        tower=True,
        stages={"distill": ("backbone",)},
        loss="adip",
        teacher_images="weighted",
        unlabelled=True,
        paper=_VL2V,
        unused=("baseline.", "rise.", "align."),
    ),
}
