"""What engines are called: runtime:precision[@provider], as `--engines` and reports have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vl2v_deploy.client.bundle import PRECISIONS
from vl2v_deploy.errors import BenchmarkError, did_you_mean

FILES, ALL, TEACHER = "files", "all", "teacher"
Runtime = Literal["torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
# Where each runtime can compute; the first is the default.
PROVIDERS: dict[Runtime, tuple[str, ...]] = {
    "torch": ("cpu", "cuda"),
    "onnxruntime": ("cpu", "cuda", "tensorrt"),
    "openvino": ("cpu",),
    "tensorrt": ("cuda",),
    "tensorrt-rtx": ("cuda",),
}
EXAMPLES = f"{FILES}, {ALL}, {TEACHER}, or such as onnxruntime:int8, openvino:fp32, onnxruntime:fp16@cuda"


@dataclass(frozen=True)
class EngineName:
    """One engine of the student.

    >>> str(EngineName("onnxruntime", "int8", "cuda")), str(EngineName("openvino", "fp32", "cpu"))
    ('onnxruntime:int8@cuda', 'openvino:fp32')
    """

    runtime: Runtime
    precision: str
    provider: str

    def __str__(self) -> str:
        suffix = "" if self.provider == PROVIDERS[self.runtime][0] else f"@{self.provider}"
        return f"{self.runtime}:{self.precision}{suffix}"


def parse_engine(text: str, device: str = "cpu") -> EngineName:
    """The engine that a name means; BenchmarkError, which says what could be meant, for any other text.

    device: cpu or cuda, where engines compute whose name does not say, if they can

    >>> parse_engine("onnxruntime:fp16", "cuda").provider, parse_engine("openvino:fp16", "cuda").provider
    ('cuda', 'cpu')
    """
    runtime, colon, rest = text.partition(":")
    precision, at, provider = rest.partition("@")
    if not colon and text not in PROVIDERS:
        known = [FILES, ALL, TEACHER, *PROVIDERS]
        raise BenchmarkError(f"engines: {text!r}{did_you_mean(text, known)}; expected {EXAMPLES}")
    if runtime not in PROVIDERS:
        hint = did_you_mean(runtime, PROVIDERS)
        raise BenchmarkError(f"engines: {text}: no runtime {runtime!r}{hint}; known: {', '.join(PROVIDERS)}")
    precisions = ("fp32",) if runtime == "torch" else PRECISIONS
    if precision not in precisions:
        expected = f"expected {runtime}: and one of {', '.join(precisions)}"
        raise BenchmarkError(f"engines: {text}: {expected}{did_you_mean(precision, precisions)}")
    providers = PROVIDERS[runtime]
    if at and provider not in providers:
        raise BenchmarkError(
            f"engines: {text}: {runtime} computes on {' or '.join(providers)}, not on {provider!r}"
        )
    return EngineName(runtime, precision, provider or (device if device in providers else providers[0]))
