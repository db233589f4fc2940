"""A first recipe for somebody's own folder of domains."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vl2v_deploy.data.domains import DomainSet, load_domains
from vl2v_deploy.data.starter_teachers import LOCAL, teacher_section
from vl2v_deploy.recipe import DataRecipe

TEMPLATE = """\
# Recipe for vl2v-deploy, written for {root}
#   {counts}
# Check it:  vl2v-deploy recipe check FILE       Run it:  vl2v-deploy distill FILE

data:
  root: {path}
  target: {target}    # kept unseen, for OOD accuracy only; 'each' = each domain in turn
  # {classes_note}
  class_names: {{}}    # words for prompts, e.g. {{{first_class}: the words of a caption}}
  split:
    val: 0.1          # share held out for selection
    test: 0.2         # share held out for ID accuracy
    seed: 0
    # groups: groups.csv   # columns image,group: images of one group stay on one side

{teacher}
prompts:
  templates:          # their embeddings are averaged; per-domain wording can help
    - a photo of a {{class}}

student:
  backbone: vit_small_patch16_224   # any timm model
  weights: timm                     # timm's default pretrained weights; 'timm:TAG', or a checkpoint file
  image_size_px: 224

align:                # backbone frozen, the projector learns the teacher's space
  steps: 5000
  batch_per_domain: 32
  learning_rate: 5.0e-5

distill:              # projector frozen, the backbone learns
  steps: 5000
  batch_per_domain: 32
  learning_rate: 5.0e-5
  image_weight: 0.5   # lambda: 1 = the teacher's image embeddings only, 0 = its text embeddings only

seed: 0
device: cpu           # cuda, where there is one: never chosen for you
"""


def starter_recipe(root: Path, target: str | None, out: Path | None, teacher: str = LOCAL) -> str:
    """A commented recipe for root/domain/class/image, as YAML text; paths relative to where it is written.

    target:  the domain to keep unseen; None = the last by name
    teacher: see teacher_section

    Raises RecipeError for an unknown teacher, DataError when `root` is not such a folder, BadImagesError when
    images do not decode.
    """
    resolved = root.resolve()
    domain_set = load_domains(DataRecipe(root=str(resolved), target=target or "each"))
    base = out.resolve().parent if out else Path.cwd()
    names = ", ".join(domain_set.classes)
    shown = names if len(names) < 400 else f"{names[:400]} ..."
    return TEMPLATE.format(
        root=root,
        counts=_counts(domain_set),
        # JSON strings are YAML strings, whatever a folder is called
        path=json.dumps(os.path.relpath(resolved, base)),
        target=json.dumps(target or domain_set.domains[-1]),
        classes_note=f"{len(domain_set.classes)} classes: {shown}",
        teacher=teacher_section(teacher),
        first_class=json.dumps(domain_set.classes[0]),
    )


def _counts(domain_set: DomainSet) -> str:
    counts = {
        domain: sum(sample.domain == domain for sample in domain_set.samples) for domain in domain_set.domains
    }
    return ", ".join(f"{domain}: {count} images" for domain, count in counts.items())
