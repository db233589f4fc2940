"""A TensorRT engine's passport as types: what it was built from and for, and whether its answers are right.

It is written beside the plan as `<plan>.json` and into the manifest. Whether a machine may run the engine is
decided in exporting/tensorrt/passport.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.client.typed_json import LEFT_OUT

PASSPORT_FORMAT = 1
# The library, by its Python name: the canonical spelling. Users meet others: engines and packages are called
# tensorrt-rtx, the extra and the options rtx and --rtx.
Flavour: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
HardwareCompatible: TypeAlias = Literal["none", "ampere-plus", "same-capability"]


@dataclass(frozen=True)
class Profile:
    """Optimization profile: batch sizes the engine takes, and the one it is fastest at."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The distinct ones, rising."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True)
class PrecisionProof:
    """In which types the engine computes.

    onnx_mac_shares:     share of the graph's multiply-accumulates in each type
    engine_layers:       how many of the engine's layers compute in each type; None where they were not read
    engine_heavy_layers: those of them that multiply matrices
    engine_shares:       the shares of those, where their type is known
    engine_layers_note:  why something is missing
    """

    onnx_mac_shares: Mapping[str, float] | None
    engine_layers: Mapping[str, int] | None
    engine_shares: Mapping[str, float] | None
    engine_layers_note: str | None
    engine_heavy_layers: Mapping[str, int] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class TimingCache:
    """The file of kernel times that the build used, or a note why there is none."""

    file: str | None
    note: str | None
    loaded_bytes: int | None = field(default=None, metadata=LEFT_OUT)
    saved_bytes: int | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Passport:
    """The whole of `<plan>.json`.

    flavour, version:     the library that built it, and runs it
    cuda, driver, gpu:    of the machine that built it; None where it had none
    compute_capabilities: of the GPUs it is for, such as '8.6'
    flags:                of the builder, by the library's names
    usable:               None = its answers were not compared yet; False = it is never run again
    parity:               how its answers compare with torch's; None while that is not known
    """

    format: int
    plan: str
    flavour: Flavour
    version: str
    platform: str
    compute_capabilities: tuple[str, ...]
    precision: str
    profile: Profile
    version_compatible: bool
    hardware_compatible: HardwareCompatible
    plan_sha256: str
    cuda: str | None = None
    driver: str | None = None
    gpu: str | None = None
    onnx: str | None = None
    onnx_sha256: str | None = None
    plan_bytes: int | None = None
    strongly_typed: bool = True
    tf32: bool = False
    builder_level: int | None = None
    workspace_bytes: int | None = None
    flags: tuple[str, ...] = ()
    precision_proof: PrecisionProof | None = None
    timing_cache: TimingCache | None = None
    build_seconds: float | None = None
    usable: bool | None = None
    unusable_because: str | None = None
    parity: Parity | None = None
    parity_note: str | None = None
