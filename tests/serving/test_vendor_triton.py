"""NVIDIA's Triton server, through pytriton, as a teacher: KServe v2 with binary tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import colour_model
from tests.helpers.peers import ROOT, free_ports, peer, python_libraries, running
from tests.helpers.served import coloured_images
from tests.helpers.vendor_recipes import billed, vendor_recipe, vendor_teacher
from vl2v_deploy.errors import VendorError

pytestmark = pytest.mark.slow
TEXTS = ["a photo of a cat", "ink", "der Hund läuft"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_ports(3), tmp_path_factory.mktemp("triton")
    command = [peer("triton"), "-m", "tests.helpers.pytriton_server", str(port)]
    environment = {
        "PYTHONPATH": str(ROOT),
        "LD_LIBRARY_PATH": python_libraries(),
        "XDG_CACHE_HOME": str(folder),
    }
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/v2/models/words/ready", folder / "log", **environment):
        yield url


def recipe_of(url: str, model: str = "vision", **more: Any) -> Any:
    settings = {"dimensions": 8, "model": model, "text_model": "words", "concurrency": 8, "batch_size": 5}
    return vendor_recipe("kserve", url, **(settings | more))


def test_encoded_images_and_texts_are_the_models_own(url: str, tmp_path: Path) -> None:
    images = coloured_images(43)
    teacher, ledger = vendor_teacher(tmp_path, recipe_of(url))
    np.testing.assert_allclose(teacher.embed_images(images), colour_model.embed_images(images), atol=1e-6)
    np.testing.assert_allclose(teacher.embed_texts(TEXTS), colour_model.embed_texts(TEXTS), atol=1e-6)
    assert teacher.answered_version == "1"
    # Triton tells no order: in each request one item is sent twice, unless it is the only one
    assert billed(ledger) == (43 + 11, 3 + 1)


def test_pixels_are_the_models_own(url: str, tmp_path: Path) -> None:
    images = [image.resize((32, 32), Image.Resampling.NEAREST) for image in coloured_images(9)]
    recipe = recipe_of(url, "pixels", image={"size_px": 32, "format": "pixels"})
    teacher, _ = vendor_teacher(tmp_path, recipe)
    np.testing.assert_allclose(teacher.embed_images(images), colour_model.embed_images(images), atol=1e-6)


def test_a_model_that_is_not_there_is_refused_at_once(url: str, tmp_path: Path) -> None:
    teacher, ledger = vendor_teacher(tmp_path, recipe_of(url, "nothing"))
    with pytest.raises(VendorError, match="nothing"):
        teacher.embed_images(coloured_images(1))
    assert billed(ledger) == (0, 0)


def test_more_than_its_batch_is_refused_once(url: str, tmp_path: Path) -> None:
    teacher, ledger = vendor_teacher(tmp_path, recipe_of(url, batch_size=18))
    with pytest.raises(VendorError, match="16") as error:
        teacher.embed_images(coloured_images(17))
    assert (error.value.status, error.value.terminal, billed(ledger)) == (400, True, (0, 0))
