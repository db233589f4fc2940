"""Every kind of teacher keeps the contract of vl2v_deploy.testing, and its checks find those that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.domain_folders import make_domain_folder
from tests.helpers.fake_vendor import FakeVendor, fake_vendor
from tests.helpers.teachers import ColourTeacher, write_clip, write_npz, write_siglip
from tests.helpers.tiny import write_teacher
from tests.helpers.vendor_recipes import KEY, KEY_ENV, vendor_recipe, vendor_teacher
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import FileTeacher, Price, Teacher, Vendor, WhiteBox
from vl2v_deploy.recipe import APIS, teacher_from_tree
from vl2v_deploy.testing import TEACHER_CHECKS, check_identities, check_teacher

TEXTS = ("a photo of a cat", "a photo of the dog", "a square", "circle", "ink of a dog")
KINDS = ("open_clip", "clip", "siglip", "precomputed", "python")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = make_domain_folder(tmp_path_factory.mktemp("images") / "data", images=2)
    return sorted(root.rglob("*.png"))[:7]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Callable[[str, int], Teacher]:
    """A teacher of a kind with random weights of some seed."""

    def load(**tree: object) -> Teacher:
        return load_teacher(teacher_from_tree(tree))

    def build(kind: str, seed: int) -> Teacher:
        folder = tmp_path_factory.mktemp("teacher") / kind
        match kind:
            case "open_clip":
                return load(model=f"local-dir:{write_teacher(folder, seed)}", batch_size=4)
            case "clip" | "siglip":
                write = write_clip if kind == "clip" else write_siglip
                return load(kind="transformers", model=f"local-dir:{write(folder, seed)}", batch_size=4)
            case "precomputed":
                write_npz(folder, images, TEXTS, seed)
                files = {name: str(folder / f"{name}.npz") for name in ("images", "texts")}
                return load(kind=kind, **files, logit_scale=50.0)
        return ColourTeacher(seed)

    return build


@pytest.fixture(scope="module")
def teachers(build: Callable[[str, int], Teacher]) -> dict[str, Teacher]:
    return {kind: build(kind, 0) for kind in KINDS}


@pytest.mark.parametrize("check", TEACHER_CHECKS.values(), ids=TEACHER_CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_is_kept(
    teachers: dict[str, Teacher], kind: str, check: Callable[..., None], images: list[Path]
) -> None:
    check(teachers[kind], images, TEXTS)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), key=KEY, dimensions=16) as running:
        yield running


@pytest.mark.parametrize("api", APIS)
def test_the_contract_is_kept_by_a_vendor_behind_http(
    api: str, vendor: FakeVendor, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    recipe = vendor_recipe(api, vendor.url(api), key_env=KEY_ENV)
    teacher, ledger = vendor_teacher(tmp_path, recipe)
    assert isinstance(teacher, Vendor)
    before = len(vendor.bill())
    check_teacher(teacher, images, TEXTS)
    bill = vendor.bill()[before:]
    [entry] = ledger.entries()
    kinds = [item.kind for item in bill]
    assert (entry.images, entry.texts) == (kinds.count("image"), kinds.count("text"))
    assert all(item.answered and not item.metadata for item in bill)
    model = "2024-01-01" if api == "azure" else "another"
    check_identities(teacher, [vendor_teacher(tmp_path, recipe.model_copy(update={"model": model}))[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_is_of_the_weights(
    teachers: dict[str, Teacher], build: Callable[[str, int], Teacher], kind: str
) -> None:
    check_identities(teachers[kind], [build(kind, 1)])
    assert build(kind, 0).identity == teachers[kind].identity  # wherever it lies


def test_the_identity_is_of_the_preprocessing(tmp_path: Path) -> None:
    teachers = []
    for size in (32, 48):
        folder = write_clip(tmp_path / str(size))
        config = json.loads((folder / "preprocessor_config.json").read_text())
        config["size"] = {"shortest_edge": size}
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
        teachers.append(
            load_teacher(teacher_from_tree({"kind": "transformers", "model": f"local-dir:{folder}"}))
        )
    check_identities(teachers[0], teachers[1:])


def test_only_those_are_white_boxes_or_know_files_that_say_so(teachers: dict[str, Teacher]) -> None:
    assert {kind for kind in KINDS if isinstance(teachers[kind], WhiteBox)} == {"open_clip"}
    assert {kind for kind in KINDS if isinstance(teachers[kind], FileTeacher)} == {"precomputed"}


class Swapping(ColourTeacher):
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        return super().embed_images(images)[torch.randperm(len(images))]


class Unnormalised(ColourTeacher):
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return 2 * super().embed_texts(texts)


class Moody(ColourTeacher):
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        noisy = super().embed_texts(texts) + 0.01 * torch.randn(len(texts), 8)
        return torch.nn.functional.normalize(noisy, dim=1)


class Blind(ColourTeacher):
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        return super().embed_images([Image.new("RGB", (4, 4))] * len(images))


class MeanOfBatch(ColourTeacher):
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        rows = super().embed_images(images)
        return torch.nn.functional.normalize(rows - 0.1 * rows.mean(0), dim=1)


class OnlyRGB(ColourTeacher):
    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        rows = super().embed_images(images)
        return torch.where(torch.tensor([[image.mode == "RGB"] for image in images]), rows, torch.nan)


class Nameless(ColourTeacher):
    identity = property(lambda self: "two\nlines", lambda self, _: None)


class Refunding(ColourTeacher):
    price = Price(usd_per_1k_images=-1.0)


@pytest.mark.parametrize(
    ("teacher", "found_by"),
    [
        (Swapping, "images: asked in reverse order"),
        (Unnormalised, "texts: expected embeddings of norm 1"),
        (Moody, "texts: asked"),
        (Blind, "images: different ones have one embedding"),
        (MeanOfBatch, "images: (one in each query|asked in reverse order)"),
        (OnlyRGB, "images of other modes and shapes"),
        (Nameless, "identity: expected one line"),
        (Refunding, "price"),
    ],
)
def test_a_teacher_that_breaks_the_contract_is_found(
    teacher: type[ColourTeacher], found_by: str, images: list[Path]
) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=found_by):
        check_teacher(teacher(), images, TEXTS)


def test_what_is_no_teacher_says_what_it_lacks(images: list[Path]) -> None:
    class Half:
        identity, embed_texts = "half", None

    with pytest.raises(ModelError, match=r"Half is no teacher: it has no embedding_dim, .*embed_images"):
        check_teacher(Half(), images, TEXTS)  # type: ignore[arg-type]


def test_one_identity_for_two_teachers_is_found() -> None:
    with pytest.raises(AssertionError, match="that of two teachers"):
        check_identities(ColourTeacher(3), [ColourTeacher(4), ColourTeacher(3)])
