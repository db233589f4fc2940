"""What the runs of one recipe share, so that it is computed once: data, teacher, pretrained features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vl2v_deploy.data.copies import Pair, near_copies
from vl2v_deploy.data.domains import DomainSet, Sample, data_fingerprint, load_domains
from vl2v_deploy.data.image_cache import ImageCache
from vl2v_deploy.data.notices import folder_notices, leak_notices
from vl2v_deploy.data.prompts import class_prompts, target_notice
from vl2v_deploy.data.unlabelled import Unlabelled, load_unlabelled, require_not_held_out, split_held_out
from vl2v_deploy.distillation.features import StudentFeatures
from vl2v_deploy.distillation.guidance import guidance_texts, language_guidance
from vl2v_deploy.distillation.parallel import World, first_does, local_device
from vl2v_deploy.method.rise import LanguageGuidance
from vl2v_deploy.models.memory import keep_freed_memory
from vl2v_deploy.models.store.mapped import zero_rows
from vl2v_deploy.models.store.store import EmbeddingStore, store_root
from vl2v_deploy.models.student import student_normalization
from vl2v_deploy.models.teacher.classes import near_text, prompt_facts, prompt_notices, require_distinct
from vl2v_deploy.models.teacher.load import load_teacher, load_white_box
from vl2v_deploy.models.teacher.protocol import (
    Teacher,
    require_logit_scale,
    require_teacher,
)
from vl2v_deploy.recipe import (
    DataRecipe,
    PythonRecipe,
    Recipe,
    StudentRecipe,
    fits_logit_scale,
    measures_agreement,
    recipe_from_tree,
    trains_on_unlabelled,
)
from vl2v_deploy.terminal import new_console


@dataclass
class Sources:
    """Data and teacher of a recipe, and what was already computed from them.

    world:       the processes of this run
    device:      of this process
    logit_scale: s of the teacher; None where it is fitted in each run
    cache:       decoded images, within the recipe's memory limit
    features:    of the pretrained student
    probes:      linear probes of the pretrained student and their weight decay, by student, target, data and
                 what they were selected by
    """

    world: World
    device: torch.device
    skip_bad: bool
    teacher: Teacher
    logit_scale: float | None
    store: EmbeddingStore
    cache: ImageCache
    features: StudentFeatures
    probes: dict[tuple[StudentRecipe, str, str, str], tuple[nn.Linear, float]] = field(default_factory=dict)
    _of: str = ""
    _data: tuple[str, DomainSet, str] | None = None
    _text_emb: dict[tuple[tuple[str, ...], ...], Tensor] = field(default_factory=dict)
    _unlabelled: tuple[tuple[tuple[str, ...], str], Unlabelled] | None = None
    _of_target: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _near: dict[tuple[str, str], tuple[Pair, ...]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def serve(self, recipe: Recipe) -> bool:
        """Whether another recipe's runs can share these: same teacher, seen in the same way."""
        return self._of == _teacher_key(recipe)

    def data(self, data: DataRecipe) -> tuple[DomainSet, str]:
        """The images as a run splits them, and their fingerprint; only the last set is kept, as it is big."""
        key = data.model_dump_json()
        if self._data is None or self._data[0] != key:
            domain_set = first_does(self.world, lambda: load_domains(data, skip_bad=self.skip_bad))
            self._data = key, domain_set, data_fingerprint(domain_set)
            new = [notice for notice in folder_notices(domain_set) if notice not in self._said]
            self._said.update(new)
            if self.world.is_first:
                say(new)
        return self._data[1:]

    def unlabelled(self, recipe: Recipe) -> Unlabelled:
        """The images without labels that the recipe's stages train on; none where no stage does."""
        return self._all_unlabelled(recipe)[0] if trains_on_unlabelled(recipe) else Unlabelled()

    def held_out(self, recipe: Recipe) -> Unlabelled:
        """The images without labels on which agreement is measured, never trained on; mostly none."""
        return self._all_unlabelled(recipe)[1] if measures_agreement(recipe) else Unlabelled()

    def _all_unlabelled(self, recipe: Recipe) -> tuple[Unlabelled, Unlabelled]:
        key = recipe.data.unlabelled, recipe.data.target
        if self._unlabelled is None or self._unlabelled[0] != key:
            found = first_does(self.world, lambda: load_unlabelled(recipe.data, skip_bad=self.skip_bad))
            self._unlabelled = key, found
        return split_held_out(self._unlabelled[1], recipe.data.unlabelled_held_out)

    def fingerprint(self, recipe: Recipe) -> str:
        """Of all images that a run depends on."""
        unlabelled, held_out = self.unlabelled(recipe), self.held_out(recipe)
        return self.data(recipe.data)[1] + unlabelled.fingerprint + held_out.fingerprint

    def of_target(self, recipe: Recipe, unlabelled: Unlabelled) -> int:
        """How many of these images are of the run's target; DataError for one of its test or val images."""
        domain_set, fingerprint = self.data(recipe.data)
        key = unlabelled.fingerprint, recipe.data.target, fingerprint
        if key not in self._of_target:
            self._of_target[key] = first_does(
                self.world,
                lambda: require_not_held_out(unlabelled.samples, domain_set, recipe.data.target),
            )
        return self._of_target[key]

    def near_copies(self, recipe: Recipe) -> tuple[Pair, ...]:
        """The training images that show the same picture as a held-out one; the user is told, once."""
        domain_set, fingerprint = self.data(recipe.data)
        target = recipe.data.target
        key = target, fingerprint
        if key not in self._near:
            self._near[key] = first_does(self.world, lambda: near_copies(domain_set, target))
            if self.world.is_first:
                say(leak_notices(domain_set, target, self._near[key]))
        return self._near[key]

    def prompts(self, recipe: Recipe, domain_set: DomainSet) -> tuple[tuple[str, ...], ...]:
        """The texts of each class."""
        target = recipe.data.target
        return class_prompts(recipe.prompts, recipe.data, domain_set.classes, domain_set.domains, target)

    def text_emb(self, recipe: Recipe, domain_set: DomainSet) -> Tensor:
        """The zero-shot classifier; (K, D) on the CPU. ModelError for classes that it cannot tell apart."""
        prompts = self.prompts(recipe, domain_set)
        notices = target_notice(prompts, recipe.data.target)
        if prompts not in self._text_emb:
            text_emb = self.store.prompt_classifier(prompts)
            facts = prompt_facts(self.teacher, prompts)
            near = require_distinct(domain_set.classes, text_emb, prompts, facts.cut)
            notices += [*prompt_notices(facts), *([near_text(near)] if near else [])]
            self._text_emb[prompts] = text_emb
        if self.world.is_first:
            say([notice for notice in notices if notice not in self._said])
        self._said.update(notices)
        return self._text_emb[prompts]

    def guidance(self, recipe: Recipe, domain_set: DomainSet) -> LanguageGuidance | None:
        """The text embeddings of the method's own that it learns from, on the CPU; None where it has none."""
        texts = guidance_texts(recipe, domain_set.classes, domain_set.domains)
        return None if texts is None else language_guidance(texts, self.store.prompt_classifier)

    def image_emb(self, samples: Sequence[Sample], description: str) -> Tensor:
        """I(x) of the un-augmented images, from the store or bought; (N, D) on the CPU."""
        mine = [samples[row] for row in self.world.mine(len(samples))]
        return self.world.gather(self.store.embed_samples(mine, description), len(samples))

    def held(self, samples: Sequence[Sample], recipe: Recipe, views: int) -> Tensor:
        """Whether the store has the teacher's answers about each image, or its fixed views; (N,) bool."""

        def look() -> Tensor:
            missing = self.store.missing(samples, recipe.distill.augmentation, views)
            lacking = {sample.sha256 for sample in missing}
            return torch.tensor([sample.sha256 not in lacking for sample in samples], dtype=torch.bool)

        held: Tensor = first_does(self.world, look)
        return held

    def held_image_emb(self, samples: Sequence[Sample], held: Tensor, description: str) -> Tensor:
        """`image_emb` of the images that are held, zeros for the others; (N, D) on the CPU."""
        rows = zero_rows(len(samples), self.teacher.embedding_dim)
        chosen = [sample for sample, is_held in zip(samples, held.tolist(), strict=True) if is_held]
        if chosen:
            rows[held] = self.image_emb(chosen, description)
        return rows

    def held_view_emb(self, samples: Sequence[Sample], held: Tensor, recipe: Recipe) -> Tensor:
        """`view_emb` of the images that are held, zeros for the others; (N, V, D) on the CPU."""
        assert isinstance(recipe.teacher_views, int)
        rows = zero_rows(len(samples), max(1, recipe.teacher_views), self.teacher.embedding_dim)
        chosen = [sample for sample, is_held in zip(samples, held.tolist(), strict=True) if is_held]
        if chosen:
            rows[held] = self.view_emb(chosen, recipe)
        return rows

    def view_emb(self, samples: Sequence[Sample], recipe: Recipe) -> Tensor:
        """I(x) of what the teacher is shown of each training image; (N, V, D) on the CPU.

        V is 1 with teacher_views 0, the image as it is; else the number of fixed views
        """
        if recipe.teacher_views == 0:
            return self.image_emb(samples, "Teacher sees the training images").unsqueeze(1)
        assert isinstance(recipe.teacher_views, int)  # online: nothing is embedded ahead
        mine = [samples[row] for row in self.world.mine(len(samples))]
        views = self.store.embed_views(mine, recipe.distill.augmentation, recipe.teacher_views)
        return self.world.gather(views, len(samples))

    def ask_online(self, images: Tensor) -> Tensor:
        """I(x) of augmented images, each a new query; uint8 (B, S, S, 3) -> (B, D) on the training device."""
        return self.store.ask_online(images)


def open_sources(recipe: Recipe, world: World, *, skip_bad: bool, teacher: Teacher | None = None) -> Sources:
    """The data checked and split, then the teacher loaded: errors of the data come first, they are cheap.

    teacher: in place of the recipe's

    Raises what loading the data and the teacher raises; ModelError for one without a logit scale.
    """
    device = local_device(recipe.device, world)
    if device.type == "cpu":
        keep_freed_memory()
    domain_set = first_does(world, lambda: load_domains(recipe.data, skip_bad=skip_bad))
    notices = folder_notices(domain_set)
    if world.is_first:
        say(notices)
    teacher = _load(recipe, str(device)) if teacher is None else require_teacher(teacher)
    cache = ImageCache(int(recipe.distill.image_cache_gb * 1e9))
    sources = Sources(
        world=world,
        device=device,
        skip_bad=skip_bad,
        teacher=teacher,
        logit_scale=None if fits_logit_scale(recipe.teacher) else require_logit_scale(teacher),
        store=EmbeddingStore(store_root(), teacher),
        cache=cache,
        features=StudentFeatures(world, device, cache),
    )
    sources._of = _teacher_key(recipe)
    sources._data = recipe.data.model_dump_json(), domain_set, data_fingerprint(domain_set)
    sources._said.update(notices)
    return sources


def say(notices: Sequence[str]) -> None:
    """Print what a user is told about the data."""
    for notice in notices:
        new_console(stderr=True).print(notice, soft_wrap=True, highlight=False)


def recipe_of_teacher(recipe: Recipe, teacher: Teacher) -> Recipe:
    """The recipe as a run of a ready teacher object records it: kind python, and the object's identity.

    Raises RecipeError for what such a teacher cannot do, ModelError for what is no teacher.
    """
    of_teacher = PythonRecipe(kind="python", identity=require_teacher(teacher).identity)
    tree = recipe.model_dump(mode="json") | {"teacher": of_teacher.model_dump(mode="json")}
    return recipe_from_tree(tree, source="recipe with teacher=")


def _load(recipe: Recipe, device: str) -> Teacher:
    if recipe.normalization == "own":
        return load_teacher(recipe.teacher, device)
    white_box = load_white_box(recipe.teacher, "normalization: faithful", device)
    return white_box.fed_by_student(*student_normalization(recipe), recipe.student.image_size_px)


def _teacher_key(recipe: Recipe) -> str:
    """Changes with the teacher, the device, and in faithful runs with the size of the student's tensor."""
    size_px = recipe.student.image_size_px if recipe.normalization == "faithful" else None
    cache_gb = recipe.distill.image_cache_gb
    return repr((recipe.teacher, recipe.device, recipe.normalization, size_px, cache_gb))
