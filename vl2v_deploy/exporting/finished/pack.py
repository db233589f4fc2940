"""A teacher file: what `vl2v_deploy.ApiTeacher` needs to stand beside a bundle's student in a cascade."""

from __future__ import annotations

from pathlib import Path

from vl2v_deploy.client import Bundle
from vl2v_deploy.client.cascade.kept import text_of_embedding
from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.teacher.api import (
    FORMAT,
    PackedImage,
    PackedTeacher,
    text_of_packed,
)
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.recipe import HttpRecipe, Recipe, load_run_recipe

RECIPE = "recipe.yaml"


def pack_teacher(bundle: Bundle, out: Path, recipe: Recipe | None = None) -> PackedTeacher:
    """Writes the teacher file of a bundle; the texts of its classes are bought once, as for a run.

    out:    the file
    recipe: whose teacher is packed in place of the bundle's own: it may be another one, such as a local
            teacher that `vl2v-deploy teacher serve` serves

    Raises ModelError for a teacher that is not behind an API, or whose logit scale is not known; what the
    embedding store raises.
    """
    own = load_run_recipe(bundle.listed(RECIPE))
    asked = (recipe or own).teacher
    if not isinstance(asked, HttpRecipe):
        raise ModelError(
            f"teacher.kind: {asked.kind}: only a teacher behind an API can be packed; serve it with "
            "`vl2v-deploy teacher serve RECIPE`, and name with --recipe one whose teacher is kind: http there"
        )
    teacher = load_teacher(asked)
    scale = _logit_scale(asked, teacher.identity, bundle)
    accuracy = bundle.manifest.distilled_accuracy
    domains, target = (tuple(accuracy.student), accuracy.target) if accuracy else ((), own.data.target)
    prompts = class_prompts(own.prompts, own.data, bundle.classes, domains, target)
    text_emb = EmbeddingStore(store_root(), teacher).prompt_classifier(prompts)  # (K, D)
    image = asked.image
    packed = PackedTeacher(
        format=FORMAT,
        api=asked.api,
        url=asked.url,
        host=asked.host,
        model=asked.model,
        text_model=asked.text_model,
        key_env=asked.key_env,
        dimensions=asked.dimensions,
        image=PackedImage(image.size_px, image.format, image.quality),
        batch_size=asked.batch_size,
        usd_per_1k_images=asked.usd_per_1k_images,
        timeout_s=asked.timeout_s,
        identity=teacher.identity,
        classes=bundle.classes,
        logit_scale=scale,
        class_embeddings=text_of_embedding(text_emb.numpy()),
    )
    out.write_text(text_of_packed(packed), encoding="utf-8")
    return packed


def _logit_scale(asked: HttpRecipe, identity: str, bundle: Bundle) -> float:
    """s: the run's where it was distilled from this very teacher, else the recipe's."""
    run = bundle.manifest.run
    if run is not None and run.teacher.identity.partition("+faithful(")[0] == identity:
        return bundle.manifest.logit_scale
    if asked.logit_scale == "fit":
        raise ModelError(
            f"teacher.logit_scale: fit: {bundle.source} was not distilled from {identity}, so nothing was "
            "fitted for it; set teacher.logit_scale to a number: if this is the run's teacher, served, "
            f"{bundle.manifest.logit_scale:g}, for which the benchmark's cascade.json has its temperature; "
            "else the model's own, such as 100 for CLIP"
        )
    return asked.logit_scale
