"""A teacher behind an API that is paid by the query: where it is, how it is asked, what it may cost."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vl2v_deploy.recipe.inputs import Section
from vl2v_deploy.recipe.problems import Unshown

Api = Literal["openai", "jina", "vllm", "cohere", "voyage", "kserve", "azure", "titan"]
APIS: tuple[Api, ...] = get_args(Api)
# Items that one request may hold; the openai format's is of images, of which infinity takes so many.
MOST_ITEMS: dict[Api, int] = {
    "openai": 32,
    "jina": 512,
    "cohere": 96,
    "voyage": 1000,
    "kserve": 1024,
    "vllm": 1,
    "azure": 1,
    "titan": 1,
}
NEEDS_KEY: frozenset[Api] = frozenset(("jina", "cohere", "voyage", "azure", "titan"))


class SentImageRecipe(Section):
    """What is sent of an image: never the file itself, always a scaled copy without metadata."""

    size_px: Annotated[
        int,
        Field(
            ge=16,
            le=2048,
            description="the shorter side is scaled down to it; the input size of the vendor's model will do",
        ),
    ] = 224
    format: Annotated[
        Literal["png", "jpeg", "webp-lossless", "pixels"],
        Field(
            description="how the pixels are encoded; pixels = not at all, for a kserve model that takes "
            "a tensor (B, S, S, 3): scaled to S, up too, and cropped to the central square"
        ),
    ] = "png"
    quality: Annotated[int | None, Field(ge=1, le=100, description="of jpeg; 90 where it is left out")] = None

    @model_validator(mode="after")
    def _quality_is_of_jpeg(self) -> SentImageRecipe:
        if self.quality is not None and self.format != "jpeg":
            raise ValueError(f"quality: goes with format: jpeg; {self.format} loses nothing")
        return self


class BudgetRecipe(Section):
    """The most that may be spent with this key from this machine, ever: paid, in flight and possibly paid."""

    max_usd: Annotated[float | None, Field(ge=0.0, description="null = no limit")] = None
    max_queries: Annotated[
        int | None, Field(ge=0, description="images and texts together; null = no limit")
    ] = None


def _filled_in(value: object) -> object:
    if value is None:
        raise ValueError("is blank: fill it in, nobody else can know it")
    return value


FilledIn = BeforeValidator(_filled_in)


def _base_url(url: str) -> str:
    try:
        whole = re.fullmatch(r"https?://[^\s@?#]+", url) and urlsplit(url)
        is_url = whole and whole.hostname and whole.port != 0
    except ValueError:  # of the port or the host
        is_url = False
    if not is_url:
        raise Unshown("expected http:// or https:// and a host, with neither a key nor a query")
    return url


def _name_of_variable(name: str | None) -> str | None:
    # Many keys look like names of variables, but for their small letters; the system's own names have none.
    if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise Unshown(
            "expected the name of an environment variable in capitals, such as JINA_API_KEY; the key itself "
            "is in that variable, never in a recipe"
        )
    return name


class TermsRecipe(Section):
    """What the vendor's terms of use say about a model that is trained on its answers, as you read them."""

    url: Annotated[str, FilledIn, Field(min_length=1, description="of the terms")]
    read_on: Annotated[datetime.date, FilledIn, Field(description="the day you read them")]
    permits: Annotated[
        Literal["internal", "distribution"],
        FilledIn,
        Field(description="internal = use within your organisation; distribution = handing the student on"),
    ]


class HttpRecipe(Section):
    """A model behind an HTTP API; nothing is seen of it but its answers."""

    kind: Literal["http"]
    api: Annotated[Api, Field(description="which wire format the server speaks")]
    url: Annotated[
        str,
        AfterValidator(_base_url),
        Field(description="base URL of the API, without a query; it holds no key"),
    ]
    model: Annotated[str, FilledIn, Field(min_length=1, description="name of the model at the vendor")]
    text_model: Annotated[
        str | None,
        Field(min_length=1, description="kserve: the model that embeds texts, if it is another"),
    ] = None
    key_env: Annotated[
        str | None,
        AfterValidator(_name_of_variable),
        Field(description="environment variable with the API key; null = the server wants none"),
    ] = None
    dimensions: Annotated[int, FilledIn, Field(ge=1, le=65536, description="D, of its embeddings")]
    image: SentImageRecipe = SentImageRecipe()
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            description="images or texts in one request; 1 where the API takes one. Of cohere and kserve, "
            "whose answers have no index, one place holds an item twice, to check their order",
        ),
    ] = 1
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests in flight at once")] = 4
    timeout_s: Annotated[float, Field(gt=0.0, le=600.0, description="wait for an answer")] = 60.0
    requests_per_minute: Annotated[float | None, Field(gt=0.0, description="your limit at the vendor")] = None
    images_per_minute: Annotated[float | None, Field(gt=0.0, description="your limit at the vendor")] = None
    usd_per_1k_images: Annotated[float, FilledIn, Field(ge=0.0, description="price; 0 = free")]
    usd_per_1k_texts: Annotated[float, FilledIn, Field(ge=0.0, description="price; 0 = free")]
    budget: BudgetRecipe = BudgetRecipe()
    terms: TermsRecipe
    logit_scale: Annotated[
        Annotated[float, Field(gt=0.0, le=1000.0)] | Literal["fit"],
        Field(
            description="s, by which cosines become logits; no API tells it. fit = the value with the lowest "
            "cross-entropy of the zero-shot teacher on source validation images"
        ),
    ] = "fit"
    online: Annotated[
        bool,
        Field(description="must be true for teacher_views: online, where every image of every step is paid"),
    ] = False

    @model_validator(mode="after")
    def _api_takes_it(self) -> HttpRecipe:
        if self.batch_size > MOST_ITEMS[self.api]:
            raise ValueError(
                f"batch_size: api: {self.api} takes at most {MOST_ITEMS[self.api]} item(s) in a request, not "
                f"{self.batch_size}"
            )
        if self.api != "kserve" and (self.text_model is not None or self.image.format == "pixels"):
            field = "text_model" if self.text_model is not None else "image.format: pixels"
            raise ValueError(f"{field}: goes with api: kserve, not with {self.api}")
        if self.key_env is None and self.api in NEEDS_KEY:
            raise ValueError(
                f"key_env: api: {self.api} wants a key: name the environment variable that holds it"
            )
        return self

    @property
    def host(self) -> str:
        """Of the server, in lower case, with its port unless that is the scheme's own."""
        url = urlsplit(self.url)
        name = f"[{url.hostname}]" if ":" in (url.hostname or "") else str(url.hostname)
        return name if url.port in (None, {"http": 80, "https": 443}[url.scheme]) else f"{name}:{url.port}"

    @property
    def names(self) -> tuple[str, ...]:
        """What the recipe calls the teacher."""
        return self.api, self.model

    def with_paths(self, absolute: Callable[[str], str]) -> HttpRecipe:  # noqa: ARG002 - it has none
        """The same with `absolute` applied to its paths."""
        return self
