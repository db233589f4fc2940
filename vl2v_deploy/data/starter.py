"""A first recipe for somebody's own folder of domains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from vl2v_deploy.data.domains import DomainSet, load_domains
from vl2v_deploy.data.layout import find_layout, holds_class_folders
from vl2v_deploy.data.manifest_file import read_manifest
from vl2v_deploy.data.packed.convert import conversion_hint, metadata_file
from vl2v_deploy.data.starter_teachers import LOCAL, teacher_section
from vl2v_deploy.errors import DataError
from vl2v_deploy.names import shown
from vl2v_deploy.recipe import NO_TARGET, DataRecipe

ALL_SEEN = "no domain is kept unseen: OOD accuracy is not measured"

TEMPLATE = """\
# Recipe for vl2v-deploy, written for {root}
#   {counts}
# Check it:  vl2v-deploy recipe check FILE       Run it:  vl2v-deploy distill FILE
# How long all steps take on this machine, and what the teacher is asked:  vl2v-deploy distill FILE --dry-run

data:
  {key}: {path}
  target: {target}    # {target_note}
  {classes}
  class_names: {{}}    # words for prompts, e.g. {{{first_class}: the words of a caption}}
  split:
    val: 0.1          # share held out for selection
    test: 0.2         # share held out for ID accuracy
    seed: 0
    # groups: groups.csv   # columns image,group: images of one group stay on one side
    duplicates: {duplicates}   # images with the same bytes: one_side of the split, or allow

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


def starter_recipe(
    root: Path,
    target: str | None,
    out: Path | None,
    teacher: str = LOCAL,
    *,
    classes: Sequence[str] = (),
    skip_bad: bool = False,
    allow_duplicates: bool = False,
) -> tuple[str, DomainSet]:
    """A commented recipe for a folder of images, as YAML text, and the images that it names.

    Its paths are relative to where it is written.

    root:             folders of domains or classes, a manifest, or an imagefolder of `datasets` with a
                      metadata file
    target:           the domain to keep unseen; None = the last by name, or none where there is
                      one domain
    teacher:          see teacher_section
    classes:          those to use, in the order of the logits; none = all
    skip_bad:         go on without images that cannot be used
    allow_duplicates: whether images with the same bytes are split as any others

    Raises RecipeError for an unknown teacher, DataError when `root` is not such a folder, BadImagesError when
    images cannot be used.
    """
    resolved = root.resolve()
    try:
        str(resolved).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{shown(resolved)}: the name of this folder is not UTF-8, which a recipe is: rename it"
        ) from error
    duplicates = "allow" if allow_duplicates else "one_side"
    resolved = (resolved.is_dir() and metadata_file(resolved)) or resolved
    key = "manifest" if resolved.is_file() else "root"
    if resolved.is_file() and (hint := conversion_hint(resolved)):
        raise DataError(hint)
    if target is None and _has_one_domain(resolved):
        target = NO_TARGET
    data = {key: str(resolved), "target": target or "each", "split": {"duplicates": duplicates}}
    if classes:
        data["classes"] = tuple(classes)
    section = DataRecipe.model_validate(data)
    _require_layout(section, resolved)
    domain_set = load_domains(section, skip_bad=skip_bad)
    base = out.resolve().parent if out else Path.cwd()
    text = TEMPLATE.format(
        root=_quoted(str(root)),
        counts=_counts(domain_set),
        key=key,
        path=_quoted(os.path.relpath(resolved, base)),
        target=_quoted(target or domain_set.domains[-1]),
        classes=_classes(domain_set, all_of_them=not classes),
        target_note=ALL_SEEN
        if target == NO_TARGET
        else "kept unseen, for OOD accuracy only; 'each' = each domain in turn",
        duplicates=duplicates,
        teacher=teacher_section(teacher),
        first_class=_quoted(domain_set.classes[0]),
    )
    return text, domain_set


def _require_layout(data: DataRecipe, path: Path) -> None:
    """DataError for a folder or manifest that cannot be used, with what to do where its images are packed."""
    try:
        find_layout(data)
    except DataError as error:
        if hint := conversion_hint(path):
            raise DataError(f"{hint}\n{error}") from error
        raise


def _has_one_domain(path: Path) -> bool:
    """Whether a folder or a manifest has no domains to keep one unseen of."""
    if path.is_file():
        return len({image.domain for image in read_manifest(path, path.parent).images}) == 1
    return path.is_dir() and holds_class_folders(path)


def _quoted(text: str) -> str:
    """A YAML text in double quotes on one line, whatever a folder is called."""
    dumped = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return str(dumped).strip()


def _classes(domain_set: DomainSet, *, all_of_them: bool) -> str:
    if not all_of_them:
        return f"classes: [{', '.join(map(_quoted, domain_set.classes))}]"
    names = ", ".join(map(shown, domain_set.classes))
    shortened = names if len(names) < 400 else f"{names[:400]} ..."
    return f"# {len(domain_set.classes)} classes: {shortened}"


def _counts(domain_set: DomainSet) -> str:
    counts = {
        domain: sum(sample.domain == domain for sample in domain_set.samples) for domain in domain_set.domains
    }
    return ", ".join(f"{shown(domain)}: {count} images" for domain, count in counts.items())
