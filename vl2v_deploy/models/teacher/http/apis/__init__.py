"""One adapter for each API: how a request is written and an answer is read."""

from __future__ import annotations

from vl2v_deploy.models.teacher.http.apis.azure import Azure
from vl2v_deploy.models.teacher.http.apis.cohere import Cohere
from vl2v_deploy.models.teacher.http.apis.jina import Jina
from vl2v_deploy.models.teacher.http.apis.kserve import KServe
from vl2v_deploy.models.teacher.http.apis.openai import OpenAI
from vl2v_deploy.models.teacher.http.apis.titan import Titan
from vl2v_deploy.models.teacher.http.apis.vllm import Vllm
from vl2v_deploy.models.teacher.http.apis.voyage import Voyage
from vl2v_deploy.models.teacher.http.apis.wire import ApiSettings, Get, Wire

__all__ = ["open_api"]


def open_api(recipe: ApiSettings, get: Get) -> Wire:
    """The adapter of the recipe's API; nothing is sent.

    get: fetches JSON from below the base URL; kserve asks for the model's metadata
    """
    match recipe.api:
        case "openai":
            return OpenAI(recipe)
        case "jina":
            return Jina(recipe)
        case "vllm":
            return Vllm(recipe)
        case "cohere":
            return Cohere(recipe)
        case "voyage":
            return Voyage(recipe)
        case "kserve":
            return KServe(recipe, get)
        case "azure":
            return Azure(recipe)
        case "titan":
            return Titan(recipe)
    raise ValueError(f"api {recipe.api!r}: has no adapter")
