"""The teacher section of a first recipe: a local model, or one behind an API.

What only the user can know is left blank, and the recipe says so until it is filled in: what the vendor
charges them, what its terms of use permit, and the model of a server of their own.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from vl2v_deploy.errors import RecipeError, did_you_mean
from vl2v_deploy.recipe import Api

LOCAL = "open_clip"
OPEN_CLIP = """\
teacher:              # what is distilled: any open_clip model and tag; other kinds: docs/teachers.md
  model: ViT-B-16
  pretrained: openai
"""
HTTP = """\
teacher:              # a model behind an API: docs/vendor.md; what is blank here, only you can fill in
  kind: http
  api: {api}
  url: {url}
  model: {model}
  key_env: {key_env}
  dimensions: {dimensions}
  image:              # what is sent of an image: a scaled copy without metadata
    size_px: {size_px}      # shorter side; the input size of the model
    format: png       # png and webp-lossless lose nothing; jpeg is smaller
  batch_size: {batch_size}
  concurrency: 4      # requests in flight at once
  # requests_per_minute: 100   # your limits at the vendor; without them the pace is found by its answers
  # images_per_minute: 400
  usd_per_1k_images:  # BLANK: what you pay for 1,000 images of this size; 0 for a server of your own
  usd_per_1k_texts:   # BLANK: for 1,000 prompts
  budget:             # for everything that is ever bought with this key from this machine
    max_usd: 5
    # max_queries: 10000
  terms:              # may you train a model on the answers? Read it, and write down what you found
    url:              # BLANK: where the terms of use are
    read_on:          # BLANK: the day you read them, as 2026-01-31
    permits:          # BLANK: internal = use within your organisation; distribution = handing it on
  logit_scale: fit    # no API tells it; fit = chosen on source validation images
"""


class _Known(NamedTuple):
    """What an API's documentation says; None = it depends on the server.

    per_request: items in one request
    """

    url: str
    model: str | None
    key_env: str | None
    dimensions: int | None
    per_request: int
    size_px: int = 224


_KNOWN: dict[Api, _Known] = {
    "openai": _Known("http://127.0.0.1:7997", None, None, None, 32),
    "jina": _Known("https://api.jina.ai", "jina-clip-v2", "JINA_API_KEY", 1024, 32, 512),
    "vllm": _Known("http://127.0.0.1:8000", None, None, None, 1),
    "cohere": _Known("https://api.cohere.com", "embed-v4.0", "COHERE_API_KEY", 1536, 96),
    "voyage": _Known("https://api.voyageai.com", "voyage-multimodal-3.5", "VOYAGE_API_KEY", 1024, 64),
    "kserve": _Known("http://127.0.0.1:8000", None, None, None, 32),
    "azure": _Known(
        "https://YOUR-RESOURCE.cognitiveservices.azure.com", "2023-04-15", "AZURE_VISION_KEY", 1024, 1
    ),
    "titan": _Known(
        "https://bedrock-runtime.us-east-1.amazonaws.com",
        "amazon.titan-embed-image-v1",
        "AWS_BEARER_TOKEN_BEDROCK",
        1024,
        1,
    ),
}


def teacher_section(choice: str) -> str:
    """YAML text of a commented teacher section.

    choice: open_clip, or the API that the teacher is behind

    Raises RecipeError for any other word.
    """
    if choice == LOCAL:
        return OPEN_CLIP
    known = next((known for api, known in _KNOWN.items() if api == choice), None)
    if known is None:
        choices = (LOCAL, *_KNOWN)
        raise RecipeError(f"--teacher: expected one of {', '.join(choices)}{did_you_mean(choice, choices)}")
    key_env = "null       # the environment variable with the key, if the server wants one"
    if known.key_env:
        key_env = f"{known.key_env}   # the environment variable that holds your key"
    return HTTP.format(
        api=choice,
        url=known.url,
        model=_blank(known.model, "name of the model at the server"),
        key_env=key_env,
        dimensions=_blank(known.dimensions, "D, of its embeddings"),
        size_px=known.size_px,
        batch_size=known.per_request,
    )


def _blank(value: object | None, words: str) -> str:
    return f"# BLANK: {words}" if value is None else json.dumps(value)  # a date stays text
