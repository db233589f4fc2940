"""Clients that we did not write get the teacher's own embeddings: OpenAI's, and NVIDIA's for Triton."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest

from tests.helpers.peers import ask_peer
from tests.helpers.served import coloured_images, data_uri, png_bytes, served
from tests.helpers.teachers import ColourTeacher

KEY = "a-key-of-the-test"
TEXTS = ["a photo of a cat", "ink", "der Hund läuft"]
OPENAI = """
import openai
client = openai.OpenAI(base_url=url, api_key=key, max_retries=0)
def rows(**asked):
    return [row.embedding for row in client.embeddings.create(model="colour", **asked).data]
answer = {
    "texts": rows(input=texts),
    "images": rows(input=images, extra_body={"modality": "image"}),
    "models": [model.id for model in client.models.list().data],
}
try:
    openai.OpenAI(base_url=url, api_key="wrong").embeddings.create(model="colour", input="a")
except openai.AuthenticationError as error:
    answer["refused"] = error.status_code
try:
    client.embeddings.create(model="other", input="a")
except openai.NotFoundError as error:
    answer["missing"] = error.body["message"]
"""
TRITON = """
import base64
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colour")
answer = {"output": client.get_model_metadata("colour")["outputs"][0]["name"]}
def rows(name, parts, binary, binary_answer):
    tensor = http.InferInput(name, [len(parts)], "BYTES")
    tensor.set_data_from_numpy(np.array(parts, dtype=np.object_), binary_data=binary)
    output = http.InferRequestedOutput("embeddings", binary_data=binary_answer)
    return client.infer("colour", [tensor], outputs=[output]).as_numpy("embeddings").tolist()
files = [base64.b64decode(one) for one in images]
answer["images"] = [rows("images", files, True, binary) for binary in (True, False)]
parts = [text.encode() for text in texts]
answer["texts"] = [rows("texts", parts, binary, binary) for binary in (True, False)]
try:
    rows("images", [b"junk"], True, True)
except http.InferenceServerException as error:
    answer["refused"] = [str(error.status()), error.message()]
"""


@pytest.fixture
def url() -> Iterator[str]:
    with served(ColourTeacher(), key=KEY) as url:
        yield url


def test_openais_client_which_asks_for_base64(url: str) -> None:
    teacher, images = ColourTeacher(), coloured_images(6)
    uris = [data_uri(image) for image in images]
    answer = ask_peer("clients", OPENAI, url=f"{url}/v1", key=KEY, texts=TEXTS, images=uris)
    np.testing.assert_allclose(answer["texts"], teacher.embed_texts(TEXTS).numpy(), atol=1e-6)
    np.testing.assert_allclose(answer["images"], teacher.embed_images(images).numpy(), atol=1e-6)
    assert (answer["models"], answer["refused"]) == (["colour"], 401)
    assert "other" in answer["missing"]


def test_tritons_client_in_json_and_binary() -> None:
    teacher, images = ColourTeacher(), coloured_images(6)
    files = [base64.b64encode(png_bytes(image)).decode() for image in images]
    with served(teacher) as url:
        answer = ask_peer("clients", TRITON, url=url.removeprefix("http://"), texts=TEXTS, images=files)
    assert answer["output"] == "embeddings"
    for rows in answer["images"]:
        np.testing.assert_allclose(rows, teacher.embed_images(images).numpy(), atol=1e-6)
    for rows in answer["texts"]:
        np.testing.assert_allclose(rows, teacher.embed_texts(TEXTS).numpy(), atol=1e-6)
    status, message = answer["refused"]
    assert "422" in status and "image 0" in message
