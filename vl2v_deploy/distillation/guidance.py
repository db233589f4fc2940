"""The texts that RISE learns from, and their embeddings. Source: Huang et al., ICCV 2023."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vl2v_deploy.data.prompts import class_prompts
from vl2v_deploy.method.rise import LanguageGuidance
from vl2v_deploy.recipe import PromptsRecipe, Recipe, method_of

Texts = tuple[tuple[str, ...], ...]


class GuidanceTexts(NamedTuple):
    """of_classes: the prompts of each of K classes; anchors: for each class the same number of texts, A."""

    of_classes: Texts
    anchors: Texts


def guidance_texts(recipe: Recipe, classes: Sequence[str], domains: Sequence[str]) -> GuidanceTexts | None:
    """The texts of a recipe of one method; None where the method learns from none of its own.

    classes, domains: folder names; the target's among the domains

    Raises what class_prompts raises.
    """
    if not method_of(recipe).own_texts:
        return None
    own, target = recipe.rise, recipe.data.target
    prompts = recipe.prompts.model_copy(update={"style": "templates", "templates": own.templates})
    anchors = PromptsRecipe(style="per_domain_sources")
    if own.anchors:
        anchors = PromptsRecipe(templates=own.anchors)
    return GuidanceTexts(
        *(class_prompts(texts, recipe.data, classes, domains, target) for texts in (prompts, anchors))
    )


def language_guidance(texts: GuidanceTexts, classifier: Callable[[Texts], Tensor]) -> LanguageGuidance:
    """The embeddings of the texts.

    classifier: from the prompts of each class to the normalised mean of their embeddings, (K, D)
    """
    of_anchor = [classifier(tuple((text,) for text in column)) for column in zip(*texts.anchors, strict=True)]
    return LanguageGuidance(classifier(texts.of_classes), torch.stack(of_anchor, dim=1))
