"""The teacher that a recipe names. Each kind is imported only when it is wanted: some take seconds."""

from __future__ import annotations

from typing import assert_never

from PIL import Image

from vl2v_deploy.errors import ModelError, RecipeError
from vl2v_deploy.models.teacher.protocol import ImageTower, Teacher, WhiteBox
from vl2v_deploy.recipe import (
    HttpRecipe,
    OpenClipRecipe,
    PrecomputedRecipe,
    PythonRecipe,
    TeacherRecipe,
    TransformersRecipe,
)


def load_teacher(recipe: TeacherRecipe, device: str = "cpu") -> Teacher:
    """The recipe's teacher, on a torch device where it computes here.

    Raises ModelError when it cannot be had, ProviderError for a device that is not there, MissingExtra for an
    optional package, SettingError when the variable with a vendor's key is not set.
    """
    match recipe:
        case OpenClipRecipe():
            return load_white_box(recipe, "", device)
        case TransformersRecipe():
            from vl2v_deploy.models.teacher.transformers import load_transformers

            return load_transformers(recipe, device)
        case PrecomputedRecipe():
            from vl2v_deploy.models.teacher.precomputed import load_precomputed

            return load_precomputed(recipe)
        case HttpRecipe():
            from vl2v_deploy.models.teacher.http import load_http

            return load_http(recipe)
        case PythonRecipe():
            raise ModelError(
                f"teacher.kind: python: {recipe.identity or 'it'} is a Python object, which no recipe can "
                "load; pass it as teacher= to distill in Python, the only place that takes one"
            )
        case _:
            assert_never(recipe)


def sent_data_url(recipe: TeacherRecipe, image: Image.Image) -> str | None:
    """An image as it is sent to a vendor, as the text of its data URL; None where no encoded file is sent."""
    if not isinstance(recipe, HttpRecipe) or recipe.image.format == "pixels":
        return None
    from vl2v_deploy.models.teacher.http.images import encoded_image

    return encoded_image(image, recipe.image).data_url


def load_white_box(
    recipe: TeacherRecipe, needed_for: str, device: str = "cpu", *, weights: bool = True
) -> WhiteBox:
    """The recipe's teacher with its torch modules in reach.

    needed_for: what asks for them, as the error names it
    weights:    False leaves them random and downloads none; the identity says so

    Raises RecipeError for a kind whose modules are out of reach, and what load_teacher raises.
    """
    from vl2v_deploy.models.teacher.open_clip import load_open_clip

    return load_open_clip(require_white_box(recipe, needed_for), device, weights=weights)


def load_image_tower(recipe: TeacherRecipe, needed_for: str, *, weights: bool = True) -> ImageTower:
    """The image encoder of the recipe's teacher, on the CPU; raises what load_white_box raises."""
    from vl2v_deploy.models.teacher.open_clip import open_clip_tower

    return open_clip_tower(require_white_box(recipe, needed_for), weights=weights)


def require_white_box(recipe: TeacherRecipe, needed_for: str) -> OpenClipRecipe:
    """The recipe itself, if its kind has its torch modules in this process; nothing is loaded.

    needed_for: what asks for them, as the error names it

    Raises RecipeError for any other kind.
    """
    if isinstance(recipe, OpenClipRecipe):
        return recipe
    raise RecipeError(
        f"teacher.kind: {recipe.kind}: {needed_for} needs the teacher's own modules in this process, which "
        "only kind: open_clip has"
    )
