"""infinity-emb, a server that we did not write, as a teacher: a tiny random CLIP, OpenAI-style."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from tests.helpers.peers import free_ports, peer, running
from tests.helpers.served import coloured_images, data_uri
from tests.helpers.teachers import write_clip
from tests.helpers.vendor_recipes import billed, vendor_recipe, vendor_teacher
from vl2v_deploy.errors import VendorError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.recipe import HttpRecipe, TransformersRecipe

pytestmark = pytest.mark.slow
TEXTS = ["a photo of cat", "ink", "the dog paint", "circle"]
KEY_ENV, KEY = "INFINITY_TEST_KEY", "a-key-of-the-test"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_clip(tmp_path_factory.mktemp("clip") / "tiny", positions=4096)
    file = folder / "tokenizer_config.json"  # transformers 5 names a class that 4 does not have
    config = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def url(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_ports(1)
    command = [peer("infinity", "infinity_emb"), "v2", "--model-id", str(clip), "--engine", "torch"]
    command += ["--device", "cpu", "--no-bettertransformer", "--no-model-warmup", "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("infinity") / "log"
    environment = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "INFINITY_API_KEY": KEY}
    with running([*command, "--port", str(port)], f"{url}/health", log, **environment):
        yield url


@pytest.fixture(scope="module")
def own(clip: Path) -> Teacher:
    """The same model in this process, through another version of transformers."""
    return load_teacher(TransformersRecipe(kind="transformers", model=f"local-dir:{clip}"))


@pytest.fixture
def recipe(url: str, monkeypatch: pytest.MonkeyPatch) -> HttpRecipe:
    monkeypatch.setenv(KEY_ENV, KEY)
    return vendor_recipe("openai", url, model="tiny", dimensions=8, key_env=KEY_ENV, concurrency=8)


def test_images_and_texts_are_the_models_own(recipe: HttpRecipe, own: Teacher, tmp_path: Path) -> None:
    # of the model's own size: two versions of transformers scale images a little differently
    images = [image.resize((32, 32)) for image in coloured_images(40)]
    teacher, ledger = vendor_teacher(tmp_path, recipe)
    torch.testing.assert_close(teacher.embed_images(images), own.embed_images(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.embed_texts(TEXTS), own.embed_texts(TEXTS), atol=1e-5, rtol=0)
    # nothing but these was asked, and all of it is accounted for
    assert billed(ledger) == (40, 4)


def test_more_images_than_it_takes_in_a_request_are_refused_once(recipe: HttpRecipe, tmp_path: Path) -> None:
    teacher, _ = vendor_teacher(tmp_path, recipe.model_copy(update={"batch_size": 33}))
    with pytest.raises(VendorError, match="32") as error:
        teacher.embed_images(coloured_images(33))
    assert (error.value.status, error.value.terminal) == (422, True)


def test_a_wrong_key_stops_at_once(
    recipe: HttpRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, "sk-wrong-key")
    teacher, _ = vendor_teacher(tmp_path, recipe)
    with pytest.raises(VendorError) as error:
        teacher.embed_texts(TEXTS)
    assert (error.value.status, error.value.terminal) == (401, True)
    assert "sk-wrong-key" not in str(error.value)


def test_what_our_server_does_as_it_does(url: str) -> None:
    """What `teacher serve` keeps of its contract: field names, base64, which errors have `detail`."""

    def ask(**body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.post(f"{url}/embeddings", json={"model": "tiny"} | body, headers=headers)

    images = [data_uri(image) for image in coloured_images(3)]
    floats = ask(input=images, modality="image").json()
    assert [row["index"] for row in floats["data"]] == [0, 1, 2]
    assert {"data", "model", "object", "usage"} <= floats.keys()
    assert floats["usage"].keys() == {"prompt_tokens", "total_tokens"}
    base64 = ask(input=images, modality="image", encoding_format="base64").json()
    assert all(isinstance(row["embedding"], str) for row in base64["data"])
    for bad in ({"input": []}, {"input": ["iVBOR"], "modality": "image"}):
        answer = ask(**bad)
        assert answer.status_code == 422 and "detail" in answer.json()
    broken = ask(input=["data:image/png;base64,AAAA"], modality="image")
    assert broken.status_code == 400 and "message" in broken.json()["error"]


def test_an_image_sent_as_text_is_answered_with_a_plausible_vector(
    recipe: HttpRecipe, own: Teacher, tmp_path: Path
) -> None:
    [image] = coloured_images(1)
    as_text = vendor_teacher(tmp_path, recipe)[0].embed_texts([data_uri(image)])
    assert as_text.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert (as_text - own.embed_images([image])).abs().max() > 0.1
