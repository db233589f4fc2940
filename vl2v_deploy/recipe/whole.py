"""The whole recipe, and the recipe of one of the methods that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vl2v_deploy.errors import RecipeError, did_you_mean
from vl2v_deploy.recipe.inputs import (
    TEACHER_TOWER,
    DataRecipe,
    PromptsRecipe,
    Section,
    StudentRecipe,
)
from vl2v_deploy.recipe.methods import DEFAULT_METHOD, METHODS
from vl2v_deploy.recipe.problems import problems_of
from vl2v_deploy.recipe.protocol import merged, with_protocol
from vl2v_deploy.recipe.teachers import OpenClipRecipe, PrecomputedRecipe, TeacherRecipe
from vl2v_deploy.recipe.training import AlignRecipe, BaselineRecipe, DistillRecipe, RiseRecipe
from vl2v_deploy.recipe.vendors import HttpRecipe


def _known(name: str) -> str:
    if name not in METHODS:
        hint = "" if "," in name else did_you_mean(name, METHODS)  # several are no misspelling of one
        raise ValueError(f"expected one of {', '.join(METHODS)}{hint}")
    return name


# A name of the table, looked up when a recipe is read.
MethodName = Annotated[
    str, AfterValidator(_known), Field(json_schema_extra=lambda schema: schema.update(enum=list(METHODS)))
]


class Recipe(Section):
    """A whole distillation: domains and a teacher in, a student out."""

    method: Annotated[
        MethodName | tuple[MethodName, ...],
        Field(description="what is trained; a list runs one after the other"),
    ] = DEFAULT_METHOD
    label: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=60,
            description="what tables and figures call these runs; null = the method's name. Recipes of one "
            "method are told apart by it; in a recipe of several methods it stands in per_method",
        ),
    ] = None
    protocol: Annotated[
        Literal["default", "authors"],
        Field(
            description="authors = the settings in which the authors' code departs from our defaults, where "
            "the recipe sets none of its own; run.json and --dry-run say what was used"
        ),
    ] = "default"
    data: DataRecipe
    teacher: TeacherRecipe
    student: StudentRecipe
    prompts: PromptsRecipe = PromptsRecipe()
    align: AlignRecipe = AlignRecipe()
    distill: DistillRecipe = DistillRecipe()
    baseline: BaselineRecipe = BaselineRecipe()
    rise: RiseRecipe = RiseRecipe()
    per_method: Annotated[
        dict[MethodName, dict[str, Any]],
        Field(default_factory=dict, description="settings that differ for one method of a list"),
    ]
    teacher_views: Annotated[
        Annotated[int, Field(ge=0, le=1000)] | Literal["online"],
        Field(
            description="what the teacher sees of a training image: 0 = the image as it is, K = K fixed "
            "augmentations of it, which the student's images replay; online = every augmented image of every "
            "step, as the authors do, each a new query"
        ),
    ] = 0
    missing_embeddings: Annotated[
        Literal["buy", "text_term"],
        Field(
            description="of training images that the embedding store lacks: buy = ask the teacher; text_term "
            "= train on them with the text term alone; then it is asked about no image, nor about test images"
        ),
    ] = "buy"
    teacher_labels: Annotated[
        float | None,
        Field(
            gt=0.0,
            le=1.0,
            description="images without labels get the text term too, of the class that the teacher sees, "
            "where it is so sure that on the sources' val images it is right in this share, a mean as "
            "validation_mean says; null = in none",
        ),
    ] = None
    normalization: Annotated[
        Literal["own", "faithful"],
        Field(
            description="own = each model gets its own mean and deviation; faithful = student and teacher "
            "get one tensor, normalised with ImageNet's, as in the authors' code"
        ),
    ] = "own"
    validation_mean: Annotated[
        Literal["domains", "images"],
        Field(
            description="what weights are selected by is a mean on the sources' val split: domains = over "
            "the source domains, each one's own mean, as DomainBed's; images = over all their images together"
        ),
    ] = "domains"
    trials: Annotated[
        int,
        Field(ge=1, le=100, description="runs with seeds seed, seed+1, ...; splits move with them"),
    ] = 1
    seed: Annotated[int, Field(ge=0, description="of weights, sampling and augmentation")] = 0
    checkpoint_every_s: Annotated[
        float, Field(ge=0.0, description="seconds between checkpoints for --resume; 0 = after every step")
    ] = 60.0
    device: Annotated[
        str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N; never chosen for you")
    ] = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _with_protocol(cls, value: Any) -> Any:
        return with_protocol(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _methods_make_sense(self) -> Recipe:
        methods = methods_of(self)
        if not methods or len(set(methods)) != len(methods):
            raise ValueError("method: an empty list, or a method named twice")
        if self.label is not None and len(methods) > 1:
            raise ValueError("label: names one method's runs; of several give each its own in per_method")
        if unused := [name for name in self.per_method if name not in methods]:
            raise ValueError(f"per_method.{unused[0]}: is not one of method")
        of_tower = [name for name in methods if METHODS[name].tower]
        tower = self.student.backbone == TEACHER_TOWER
        if tower != bool(of_tower) or (tower and len(methods) > 1):
            known = " or ".join(name for name, method in METHODS.items() if method.tower)
            raise ValueError(
                f"method: {known} needs student.backbone: {TEACHER_TOWER}, which no other method takes, and "
                "cannot be one of several: its student is the teacher's image tower"
            )
        for name in self.per_method:
            recipe_of_method(self, name)
        return self

    @model_validator(mode="after")
    def _teacher_can_do_it(self) -> Recipe:
        kind = self.teacher.kind
        if not isinstance(self.teacher, OpenClipRecipe):
            if self.student.backbone == TEACHER_TOWER:
                raise ValueError(
                    f"teacher.kind: {kind} has no image tower to train; self_distill needs open_clip"
                )
            if self.normalization == "faithful":
                raise ValueError(
                    f"teacher.kind: {kind} preprocesses on its own; normalization: faithful needs open_clip"
                )
        if isinstance(self.teacher, PrecomputedRecipe) and self.teacher_views != 0:
            raise ValueError(
                f"teacher.kind: {kind} knows images as they are and no augmented ones; set teacher_views: 0"
            )
        if isinstance(self.teacher, HttpRecipe) and self.teacher_views == "online":
            _require_online(self, self.teacher)
        return self

    @model_validator(mode="after")
    def _text_term_is_enough(self) -> Recipe:
        if self.missing_embeddings == "buy":
            return self
        if self.teacher_views == "online":
            raise ValueError(
                "missing_embeddings: text_term asks the teacher about no image, teacher_views: online about "
                "every one; set one of the two otherwise"
            )
        for name in methods_of(self):
            method = METHODS[name]
            weights = {"align": self.align.image_weight, "distill": self.distill.image_weight}
            no_text_term = method.has_lambda and any(weights[stage] == 1 for stage in method.stages)
            # The settings of a method in per_method are checked with its own recipe.
            if name not in self.per_method and (method.needs_image_embeddings or no_text_term):
                why = "its image_weight is 1" if no_text_term else "it needs each one's embedding"
                raise ValueError(
                    f"missing_embeddings: text_term leaves {name} nothing to do with an image that the store "
                    f"lacks: {why}; set missing_embeddings: buy"
                )
        return self

    @model_validator(mode="after")
    def _teacher_labels_can_be_chosen(self) -> Recipe:
        if self.teacher_labels is not None:
            if self.teacher_views == "online":
                raise ValueError(
                    "teacher_labels: teacher_views: online knows no image before it is trained on"
                )
            if self.missing_embeddings == "text_term":
                raise ValueError(
                    "teacher_labels: asks the teacher about val images, too; set missing_embeddings: buy"
                )
        return self

    @model_validator(mode="after")
    def _unlabelled_can_be_used(self) -> Recipe:
        for stage, settings in (("align", self.align), ("distill", self.distill)):
            if not settings.unlabelled_per_step:
                continue
            if not self.data.unlabelled:
                raise ValueError(
                    f"{stage}.unlabelled_per_step: {settings.unlabelled_per_step}: there are no such images; "
                    "name folders, globs or manifests in data.unlabelled"
                )
            users = [name for name in methods_of(self) if METHODS[name].unlabelled]
            if settings.image_weight == 0 and any(METHODS[name].has_lambda for name in users):
                raise ValueError(
                    f"{stage}.unlabelled_per_step: images without labels have the image term alone, which "
                    f"{stage}.image_weight: 0 leaves out"
                )
        return self


def _require_online(recipe: Recipe, teacher: HttpRecipe) -> None:
    """ValueError with what it costs, unless the recipe says that every image of every step may be bought."""
    if teacher.online:
        return
    methods = [METHODS[name] for name in methods_of(recipe)]
    trained = {stage for method in methods if method.teacher_images != "never" for stage in method.stages}
    stages = [
        stage for name, stage in (("align", recipe.align), ("distill", recipe.distill)) if name in trained
    ]
    steps = " and ".join(f"{stage.steps} steps x {stage.batch_per_domain}" for stage in stages)
    images = sum(stage.steps * stage.batch_per_domain for stage in stages)
    unlabelled = sum(stage.steps * stage.unlabelled_per_step for stage in stages)
    more = f", and {unlabelled:,} of images without labels" if unlabelled else ""
    usd = images * teacher.usd_per_1k_images / 1000
    raise ValueError(
        f"teacher_views: online buys every image of every step: in each run {steps or 0} images = {images:,} "
        f"queries (${usd:,.2f}) for each source domain{more}; set teacher.online: true if that is meant, or "
        "teacher_views to 0 or a few fixed views"
    )


def methods_of(recipe: Recipe) -> tuple[str, ...]:
    """The methods that a recipe runs, in its order."""
    return recipe.method if isinstance(recipe.method, tuple) else (recipe.method,)


def recipe_of_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe of one method alone, its `per_method` settings in place.

    Raises RecipeError when those do not fit the schema.
    """
    tree = recipe.model_dump(mode="json", exclude={"per_method"})
    own = recipe.per_method.get(method, {})
    if clash := own.keys() & _SHARED_BY_METHODS:
        raise RecipeError(f"per_method.{method}.{min(clash)}: is the same for all methods of a recipe")
    return recipe_from_tree(merged(tree, own) | {"method": method}, source=f"per_method.{method}")


_SHARED_BY_METHODS = {
    *(
        "method",
        "per_method",
        "data",
        "teacher",
        "student",
        "prompts",
        "protocol",
        "normalization",
        "validation_mean",
        "trials",
        "seed",
        "device",
    )
}


def recipe_from_tree(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that a parsed YAML tree describes; all its errors in one RecipeError.

    source: what the errors call it, usually the file
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = problems_of(error, Recipe)
        lines = [f"{source}: {field or 'recipe'}: {message}" for field, message in problems.items()]
        raise RecipeError("\n".join(lines)) from error
