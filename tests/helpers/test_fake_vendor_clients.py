"""The vendors' own clients are understood by the fake: its schemas are no stricter than theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.helpers.fake_vendor import FakeVendor, fake_vendor, pixels_sha256, text_sha256
from tests.helpers.peers import ask_peer
from tests.helpers.served import coloured_images, data_uri

KEY = "a-key-of-the-test"
TEXTS = ["a photo of a red square", "ink"]
PICTURES = """
import base64, io
from PIL import Image
raw = [base64.b64decode(one.partition(",")[2]) for one in images]
pictures = [Image.open(io.BytesIO(one)) for one in raw]
"""
CLIENTS = {
    "voyage": """
import voyageai
client = voyageai.Client(api_key=key, base_url=url + "/v1", max_retries=0)
def rows(inputs):
    return client.multimodal_embed(inputs=[[one] for one in inputs], model="m").embeddings
answer = {"images": rows(pictures), "texts": rows(texts)}
""",
    "cohere": """
import cohere
client = cohere.ClientV2(api_key=key, base_url=url)
def rows(**asked):
    return client.embed(model="m", embedding_types=["float"], **asked).embeddings.float_
answer = {"images": rows(images=images, input_type="image")}
answer["texts"] = rows(texts=texts, input_type="classification")
""",
    "openai": """
import openai
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
def rows(**asked):
    return [row.embedding for row in client.embeddings.create(model="m", **asked).data]
answer = {"images": rows(input=images, extra_body={"modality": "image"}), "texts": rows(input=texts)}
""",
    "kserve": """
import numpy as np
import tritonclient.http as http
client = http.InferenceServerClient(url.removeprefix("http://"))
def rows(name, parts):
    tensor = http.InferInput(name, [len(parts)], "BYTES")
    tensor.set_data_from_numpy(np.array(parts, dtype=np.object_))
    asked = client.infer("m", [tensor], headers={"Authorization": "Bearer " + key})
    return asked.as_numpy("embeddings").tolist()
answer = {"images": rows("images", raw), "texts": rows("texts", [text.encode() for text in texts])}
""",
}


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeVendor]:
    with fake_vendor(tmp_path_factory.mktemp("vendor"), key=KEY) as vendor:
        yield vendor


@pytest.mark.parametrize("api", CLIENTS)
def test_a_vendors_own_client_is_understood(vendor: FakeVendor, api: str) -> None:
    images = coloured_images(3)
    before = len(vendor.bill())
    sent = {"url": vendor.url(api), "key": KEY, "texts": TEXTS, "images": [data_uri(one) for one in images]}
    answer: dict[str, Any] = ask_peer("clients", PICTURES + CLIENTS[api], **sent)
    assert np.shape(answer["images"]) == (3, 16) and np.shape(answer["texts"]) == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(answer["images"], axis=1), 1, atol=1e-6)
    assert [item.sha256 for item in vendor.bill()[before:]] == [
        *(pixels_sha256(image) for image in images),
        *(text_sha256(text) for text in TEXTS),
    ]
