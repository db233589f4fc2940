"""Request bodies as the vendors publish them; an unknown field or a wrong type is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OpenAIRequest(Strict):
    """infinity-emb 0.0.78; OpenAI's own lacks `modality`."""

    model: Text
    input: Annotated[list[Text], Field(min_length=1, max_length=2048)] | Text
    modality: Literal["text", "image"] = "text"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class JinaImage(Strict):
    image: Text


class JinaText(Strict):
    text: Text


class JinaRequest(Strict):
    model: Text
    input: Annotated[list[JinaImage | JinaText], Field(min_length=1, max_length=2048)]
    normalized: bool = False
    embedding_type: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    task: str | None = None


class ImageUrl(Strict):
    url: Text
    detail: Literal["auto", "low", "high"] | None = None


class VllmImage(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class VllmText(Strict):
    type: Literal["text"]
    text: Text


class VllmMessage(Strict):
    role: Literal["user"]
    content: Annotated[list[VllmImage | VllmText], Field(min_length=1, max_length=1)]


class VllmRequest(Strict):
    model: Text
    messages: Annotated[list[VllmMessage], Field(min_length=1, max_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class CohereRequest(Strict):
    model: Text
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"]
    embedding_types: Annotated[list[Literal["float"]], Field(min_length=1, max_length=1)]
    images: Annotated[list[Text], Field(min_length=1, max_length=96)] | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=96)] | None = None
    output_dimension: Annotated[int, Field(ge=1)] | None = None  # published: 256, 512, 1024, 1536
    truncate: Literal["NONE", "START", "END"] = "END"


class VoyageText(Strict):
    type: Literal["text"]
    text: Text


class VoyageImage(Strict):
    type: Literal["image_base64"]
    image_base64: Text


class VoyageInput(Strict):
    content: Annotated[list[VoyageText | VoyageImage], Field(min_length=1, max_length=1)]


class VoyageRequest(Strict):
    model: Text
    inputs: Annotated[list[VoyageInput], Field(min_length=1, max_length=1000)]
    input_type: Literal["query", "document"] | None = None
    truncation: bool = True
    output_encoding: Literal["base64"] | None = None
    encoding_format: Literal["base64"] | None = None  # as the vendor's own client calls it
    output_dtype: Literal["float"] | None = None
    output_dimension: Annotated[int, Field(ge=1)] | None = None  # published: 256, 512, 1024, 2048


class AzureText(Strict):
    text: Text


class TitanConfig(Strict):
    outputEmbeddingLength: Annotated[int, Field(ge=1)]  # noqa: N815 - published: 256, 384, 1024


class TitanRequest(Strict):
    inputImage: Text | None = None  # noqa: N815
    inputText: Text | None = None  # noqa: N815
    embeddingConfig: TitanConfig | None = None  # noqa: N815


class KServeInput(Strict):
    name: Text
    datatype: Literal["UINT8", "BYTES"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class KServeOutput(Strict):
    name: Text
    parameters: dict[str, Any] = {}


class KServeRequest(Strict):
    id: str | None = None
    inputs: Annotated[list[KServeInput], Field(min_length=1, max_length=1)]
    outputs: list[KServeOutput] | None = None
    parameters: dict[str, Any] = {}
