"""KServe v2 (Triton, KServe, mlserver): one tensor of images or texts in, one of embeddings out.

Names and types of the tensors come from the model's metadata. Tensors travel in binary where the server lists
the binary tensor extension, as JSON elsewhere.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import numpy as np

from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.teacher.http.apis.wire import (
    BEARER,
    ApiSettings,
    Body,
    EncodedImage,
    Get,
    Request,
    Rows,
)

HEADER = "Inference-Header-Content-Length"
FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
What = Literal["image", "text"]


@dataclass(frozen=True)
class KServe:
    """{base}/v2/models/{model}/infer. Tensors of several models or inputs are told apart by their names."""

    recipe: ApiSettings
    get: Get = field(repr=False)
    indexed = False
    key_header = BEARER
    least_px = 1
    mode: ClassVar[Mapping[str, Any]] = {}

    def images(self, images: Sequence[EncodedImage]) -> Request:
        size, found = self.recipe.image.size_px, self._input("image")
        if self.recipe.image.format == "pixels":
            shape = [len(images), size, size, 3]
            return self._request("image", found, shape, b"".join(image.content for image in images))
        return self._strings("image", found, [image.content for image in images])

    def texts(self, texts: Sequence[str]) -> Request:
        return self._strings("text", self._input("text"), [text.encode() for text in texts])

    def read(self, body: Body) -> Rows:
        head = int(body.headers.get(HEADER.lower(), len(body.content)))
        tree = json.loads(body.content[:head])
        at = head
        for output in tree["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size", 0)
            if output["name"] == self._output_of(tree):
                dtype = np.dtype(FLOATS[output["datatype"]])
                raw = body.content[at : at + size]
                flat = np.frombuffer(raw, dtype) if size else np.asarray(output["data"], dtype).ravel()
                # Two models may have two versions: only the image model's is that of the embeddings bought.
                of_texts = tree.get("model_name") == self.recipe.text_model != self.recipe.model
                version = None if of_texts else tree.get("model_version")
                return Rows(list(flat.reshape(output["shape"][0], -1)), version=version)
            at += size
        raise KeyError("outputs")

    def _output_of(self, tree: Any) -> str:
        return str(_only([output["name"] for output in tree["outputs"]], "embed", "output"))

    def _strings(self, what: What, tensor: dict[str, Any], elements: Sequence[bytes]) -> Request:
        """A tensor of BYTES; a model with a batch dimension wants it of rank 2."""
        shape = [len(elements)] + [1] * (len(tensor["shape"]) - 1)
        raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
        if self._binary() or what == "text":
            return self._request(what, tensor, shape, raw, [] if self._binary() else elements)
        raise ModelError(
            f"teacher.url: {self.recipe.url}: offers no binary tensors, which encoded images need; "
            "use a model that takes pixels, with teacher.image.format: pixels"
        )

    def _request(
        self,
        what: What,
        tensor: dict[str, Any],
        shape: list[int],
        raw: bytes,
        texts: Sequence[bytes] = (),
    ) -> Request:
        path = f"{self._model(what)}/infer"
        sent: dict[str, Any] = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape}
        if not self._binary():
            sent["data"] = [text.decode() for text in texts] or list(raw)
            return Request(path, json.dumps({"inputs": [sent]}).encode())
        outputs = [{"name": self._output(what), "parameters": {"binary_data": True}}]
        sent["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [sent], "outputs": outputs}).encode()
        return Request(path, head + raw, "application/octet-stream", {HEADER: str(len(head))})

    def _binary(self) -> bool:
        extensions = self.get("/v2").get("extensions") or []
        return bool({"binary_tensor_data", "binary_data"}.intersection(extensions))

    def _model(self, what: What) -> str:
        name = (self.recipe.text_model if what == "text" else None) or self.recipe.model
        return f"/v2/models/{quote(name, safe='')}"

    def _output(self, what: What) -> str:
        outputs = self.get(self._model(what))["outputs"]
        return str(_only([output["name"] for output in outputs], "embed", "output"))

    def _input(self, what: What) -> dict[str, Any]:
        """Metadata of the tensor that takes images or texts, of the type that the recipe sends."""
        inputs = {tensor["name"]: tensor for tensor in self.get(self._model(what))["inputs"]}
        tensor: dict[str, Any] = inputs[_only(list(inputs), what, "input")]
        pixels = what == "image" and self.recipe.image.format == "pixels"
        wanted = "UINT8" if pixels else "BYTES"
        if tensor["datatype"] != wanted:
            raise ModelError(
                f"teacher.image.format: {self.recipe.image.format}: needs a tensor of {wanted}, the model's "
                f"input {tensor['name']} is of {tensor['datatype']}"
            )
        return tensor


def _only(names: Sequence[str], word: str, role: str) -> str:
    """The one name, or the one that holds the word; ModelError where that does not decide."""
    fitting = names if len(names) == 1 else [name for name in names if word in name.lower()]
    if len(fitting) != 1:
        raise ModelError(
            f"teacher.model: expected one {role} tensor, or one with {word!r} in its name; found "
            f"{', '.join(names) or 'none'}"
        )
    return fitting[0]
