"""What benchmarks/scale.py times, each phase in a process of its own.

All phases of a count share a cache folder, and each finds what the one before has left there.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vl2v_deploy.bulk.run import Settings, predict_to
from vl2v_deploy.data.augment import Augment
from vl2v_deploy.data.copies import near_copies
from vl2v_deploy.data.domains import data_fingerprint, load_domains
from vl2v_deploy.data.emojidg import emojidg_root
from vl2v_deploy.data.files import each_image
from vl2v_deploy.data.sampling import StepBatches, domain_rows
from vl2v_deploy.distillation.evaluate.predictions import run_data
from vl2v_deploy.distillation.parallel import World
from vl2v_deploy.distillation.purchase.needed import needed_by_recipe
from vl2v_deploy.distillation.sources import Sources, open_sources
from vl2v_deploy.models.teacher.protocol import Price
from vl2v_deploy.recipe import Recipe, recipe_from_tree
from vl2v_deploy.terminal import new_console

SIZE_PX = 96
TARGET = "fluent-high-contrast"
DIM = 512
STEPS = 5


class ThumbnailTeacher:
    """Thumbnails of 8 x 8 pixels on 512 random directions: answers that cost almost nothing."""

    embedding_dim, image_size_px, batch_size, logit_scale = DIM, 32, 64, 20.0
    identity = "thumbnails@1"
    price: Price | None = None

    def __init__(self) -> None:
        self._directions = torch.randn(8 * 8 * 3, DIM, generator=torch.Generator().manual_seed(0))

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        thumbnails = np.stack([np.asarray(image.convert("RGB").resize((8, 8))) for image in images])
        pixels = torch.from_numpy(thumbnails).float().flatten(1) / 255  # (B, 192)
        return torch.nn.functional.normalize(pixels @ self._directions, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        rows = [torch.randn(DIM, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def make_images(folder: Path, count: int) -> Path:
    """`folder` with domain/class/number.jpg, `count` in all, made where they are not there yet."""
    done = folder.parent / "images.done"
    if done.exists():
        return folder
    sources = sorted(each_image(emojidg_root()))
    random.Random(0).shuffle(sources)
    for number in range(count):
        source = sources[number % len(sources)]
        file = folder / source.parent.parent.name / source.parent.name / f"{number:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        _variant(source, number).save(file, quality=85)
    done.touch()
    return folder


def _variant(source: Path, number: int) -> Image.Image:
    """The picture turned, recoloured, with noise: other bytes for each number, and another look."""
    rng = np.random.default_rng(number)
    with Image.open(source) as opened:
        image = opened.convert("RGBA").resize((SIZE_PX, SIZE_PX))
    image = image.rotate(float(rng.uniform(-25, 25)))
    background = Image.new("RGBA", image.size, (*map(int, rng.integers(120, 256, 3)), 255))
    flat = Image.alpha_composite(background, image).convert("RGB")
    if rng.random() < 0.5:
        flat = ImageOps.mirror(flat)
    pixels = np.asarray(flat).astype(np.int16) + rng.integers(-12, 13, (SIZE_PX, SIZE_PX, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def recipe_of(images: Path) -> Recipe:
    """Distill on the images, to be run with a teacher object."""
    tree = {
        "data": {"root": str(images), "target": TARGET},
        "teacher": {"kind": "python", "identity": ThumbnailTeacher.identity},
        "student": {"backbone": "tf_efficientnet_lite0", "weights": "builtin", "image_size_px": SIZE_PX},
    }
    return recipe_from_tree(tree, source="benchmarks/scale.py")


def opened(images: Path) -> tuple[Recipe, Sources]:
    recipe = recipe_of(images)
    return recipe, open_sources(recipe, World(), skip_bad=False, teacher=ThumbnailTeacher())


def list_files(images: Path, _: Path) -> None:
    """Names of all images, from the file system."""
    assert sum(1 for _ in each_image(images))


def look(images: Path, _: Path) -> None:
    """The domains, split, with their fingerprint: at first every file is read, hashed and decoded."""
    data_fingerprint(load_domains(recipe_of(images).data))


def find_near_copies(images: Path, _: Path) -> None:
    """Training images that show the same picture as a held-out one."""
    near_copies(load_domains(recipe_of(images).data), TARGET)


def embed(images: Path, _: Path) -> None:
    """What `teacher embed` does."""
    recipe, sources = opened(images)
    needed = needed_by_recipe(recipe, sources)
    sources.store.embed_samples(needed.plain)
    for views, samples in needed.viewed.items():
        sources.store.embed_views(samples, *views)


def train_data(images: Path, _: Path) -> None:
    """What distill has before its first step, all embeddings among it, and the batches of 5 steps."""
    recipe, sources = opened(images)
    data = run_data(recipe, sources)
    view_emb = sources.view_emb(data.train, recipe)
    batches = StepBatches(
        samples=data.train,
        rows_of=domain_rows(data.train, data.domains),
        per_domain=recipe.distill.batch_per_domain,
        augment=Augment(recipe.distill.augmentation, SIZE_PX),
        seed=0,
        cache=sources.cache,
    )
    for made in batches.in_order(range(STEPS), recipe.distill.workers):
        assert made.augmented("cpu").shape[0] == view_emb[made.rows, 0].shape[0]


def predict(images: Path, bundle: Path) -> None:
    """`predict --out` of all images."""
    out = images.parent / "rows.jsonl"
    predict_to(bundle, [str(images)], out, Settings(), new_console(stderr=True), overwrite=True)
    out.unlink()


PHASES: Mapping[str, Callable[[Path, Path], None]] = {
    "list": list_files,
    "first look": look,
    "second look": look,
    "near copies": find_near_copies,
    "embed": embed,
    "distill's data": train_data,
    "predict": predict,
}
FROM_NOTHING = ("list", "first look")  # what a killed one has left is in their way


def most_memory() -> int:
    """The most bytes that this process has had in memory; getrusage would count those of its parent too."""
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return 1024 * int(kib)


def main(phase: str, images: str, bundle: str) -> None:
    begin_bytes = most_memory()
    began, cpu_began = perf_counter(), process_time()
    PHASES[phase](Path(images), Path(bundle))
    seconds, of_children = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "seconds": seconds,
        "cpu_s": process_time() - cpu_began + of_children.ru_utime + of_children.ru_stime,
        "begin_bytes": begin_bytes,
        "peak_bytes": most_memory(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
