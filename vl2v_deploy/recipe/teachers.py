"""The kinds of teacher that a recipe can name; `kind` chooses among them, open_clip where it is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from vl2v_deploy.recipe.inputs import BUILTIN_TEACHER, Section, is_weight_file
from vl2v_deploy.recipe.vendors import HttpRecipe

LOCAL, HUB = "local-dir:", "hf-hub:"
BatchSize = Annotated[int, Field(ge=1, le=4096, description="images in one query")]
LogitScale = Annotated[
    Annotated[float, Field(gt=0.0, le=1000.0)] | Literal["fit"] | None,
    Field(
        description="s, by which cosines become logits; about 100 for CLIP; null = the model's own; fit = "
        "the value with the lowest cross-entropy of the zero-shot teacher on source validation images",
    ),
]


class OpenClipRecipe(Section):
    """A model that open_clip loads, with its weights on this machine."""

    kind: Literal["open_clip"] = "open_clip"
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
    batch_size: BatchSize = 64

    @model_validator(mode="after")
    def _weights_are_named(self) -> OpenClipRecipe:
        self_contained = self.model.startswith((LOCAL, HUB, "builtin:"))
        if self.model.startswith("builtin:") and self.model != BUILTIN_TEACHER:
            raise ValueError(f"there is one built-in teacher: {BUILTIN_TEACHER}")
        if not self_contained and self.pretrained is None:
            raise ValueError("pretrained is needed with a model name: an open_clip tag or a checkpoint file")
        if self_contained and self.pretrained is not None:
            raise ValueError(
                f"pretrained does not go with {self.model.split(':')[0]}:, which holds its weights"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls the teacher."""
        return (self.model, self.pretrained) if self.pretrained else (self.model,)

    def with_paths(self, absolute: Callable[[str], str]) -> OpenClipRecipe:
        """The same with `absolute` applied to its paths."""
        update = {"model": _local_model(self.model, absolute)}
        if self.pretrained and is_weight_file(self.pretrained):
            update["pretrained"] = absolute(self.pretrained)
        return self.model_copy(update=update)


class TransformersRecipe(Section):
    """A dual encoder of Hugging Face transformers (CLIP, SigLIP, AltCLIP ...), with its own processor."""

    kind: Literal["transformers"]
    model: Annotated[str, Field(min_length=1, description="'ORG/NAME' on the hub, or 'local-dir:PATH'")]
    revision: Annotated[str | None, Field(description="commit, tag or branch on the hub")] = None
    trust_remote_code: Annotated[
        bool, Field(description="whether to run the Python code that comes with the model, as this user")
    ] = False
    batch_size: BatchSize = 64
    logit_scale: LogitScale = None

    @model_validator(mode="after")
    def _revision_is_of_the_hub(self) -> TransformersRecipe:
        if self.revision is not None and self.model.startswith(LOCAL):
            raise ValueError(f"revision does not go with {LOCAL}, which is one")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls the teacher."""
        return (self.model, self.revision) if self.revision else (self.model,)

    def with_paths(self, absolute: Callable[[str], str]) -> TransformersRecipe:
        """The same with `absolute` applied to its paths."""
        return self.model_copy(update={"model": _local_model(self.model, absolute)})


class PrecomputedRecipe(Section):
    """Embeddings that were computed elsewhere, in two files: of images, and of prompts or classes."""

    kind: Literal["precomputed"]
    images: Annotated[
        str,
        Field(
            min_length=1,
            description="Parquet file or folder, or NPZ file, with the columns 'embedding' and either "
            "'sha256' (of the file's bytes, hexadecimal) or 'path' (relative to data.root)",
        ),
    ]
    texts: Annotated[
        str,
        Field(
            min_length=1,
            description="the same with the columns 'embedding' and either 'text' (a whole prompt) or 'class'",
        ),
    ]
    logit_scale: LogitScale = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls the teacher."""
        return self.images, self.texts

    def with_paths(self, absolute: Callable[[str], str]) -> PrecomputedRecipe:
        """The same with `absolute` applied to its paths."""
        return self.model_copy(update={"images": absolute(self.images), "texts": absolute(self.texts)})


class PythonRecipe(Section):
    """A teacher object that is passed to the Python API; a recipe file never names code."""

    kind: Literal["python"]
    identity: Annotated[str, Field(description="of the teacher that was passed, as it gave it")] = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls the teacher."""
        return (self.identity or "python",)

    def with_paths(self, absolute: Callable[[str], str]) -> PythonRecipe:  # noqa: ARG002 - it has none
        """The same with `absolute` applied to its paths."""
        return self


def _of_open_clip(tree: Any) -> Any:
    """Before there were kinds, every teacher was open_clip's."""
    return {"kind": "open_clip", **tree} if isinstance(tree, dict) else tree


TeacherRecipe = Annotated[
    OpenClipRecipe | TransformersRecipe | PrecomputedRecipe | HttpRecipe | PythonRecipe,
    Field(discriminator="kind"),
    BeforeValidator(_of_open_clip),
]
_TEACHER: TypeAdapter[TeacherRecipe] = TypeAdapter(TeacherRecipe)


def teacher_from_tree(tree: Any) -> TeacherRecipe:
    """The teacher section that a dumped recipe holds, on its own; for processes that get only that."""
    return _TEACHER.validate_python(tree)


def fits_logit_scale(teacher: TeacherRecipe) -> bool:
    """Whether the logit scale is fitted in each run, on the images of its sources."""
    return not isinstance(teacher, OpenClipRecipe | PythonRecipe) and teacher.logit_scale == "fit"


def fixed_scale(teacher: TransformersRecipe | PrecomputedRecipe | HttpRecipe) -> float | None:
    """The logit scale that the recipe names; None where it names none or has it fitted."""
    return None if teacher.logit_scale == "fit" else teacher.logit_scale


def _local_model(model: str, absolute: Callable[[str], str]) -> str:
    return f"{LOCAL}{absolute(model.removeprefix(LOCAL))}" if model.startswith(LOCAL) else model
