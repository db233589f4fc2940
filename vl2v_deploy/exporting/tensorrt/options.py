"""What an engine is to be: its profile, its builder's options, and the checks before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from vl2v_deploy.errors import ExportError
from vl2v_deploy.exporting.tensorrt.passport import Flavour, HardwareCompatible

HIGHEST_LEVEL = 5  # the library silently takes anything above for 5


@dataclass(frozen=True)
class Profile:
    """Optimization profile: batch sizes the engine takes, and the one it is fastest at."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class EngineOptions:
    """How the builder goes about it; the defaults are the library's own, but for TF32.

    builder_level:       0 (fastest build) to 5 (fastest engine); None = the library's own, 3
    workspace_bytes:     most scratch memory a layer may use; None = the library's own limit
    tf32:                multiply fp32 matrices with ten bits of mantissa; off, so that fp32 means fp32
    version_compatible:  the engine also runs on later versions of TensorRT, a little slower
    hardware_compatible: 'none' = this model of GPU; 'same-capability' = every GPU of its compute capability;
                         'ampere-plus' = every GPU from compute capability 8.0 on; the wider, the slower
    timing_cache:        keep measured kernel times between builds; None = where the library can
    """

    builder_level: int | None = None
    workspace_bytes: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: HardwareCompatible = "none"
    timing_cache: bool | None = None

    def __post_init__(self) -> None:
        level, workspace = self.builder_level, self.workspace_bytes
        if level is not None and not 0 <= level <= HIGHEST_LEVEL:
            raise ExportError(f"--builder-level {level}: expected 0 to {HIGHEST_LEVEL}")
        if workspace is not None and workspace < 1:
            raise ExportError(f"--workspace-mib: {workspace} bytes: expected at least 1")
        if self.hardware_compatible not in get_args(HardwareCompatible):
            raise ExportError(
                f"--hardware-compatible {self.hardware_compatible}: expected one of "
                f"{', '.join(get_args(HardwareCompatible))}"
            )


DEFAULTS = EngineOptions()


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build, from each ONNX file of the bundle.

    compute_capabilities: such as '8.6'; empty = of the GPU here
    """

    flavour: Flavour
    profile: Profile
    compute_capabilities: tuple[str, ...] = ()
    options: EngineOptions = DEFAULTS


def profile_from_text(text: str) -> Profile:
    """The profile written as MIN:OPT:MAX batch sizes.

    Raises ExportError unless they are three whole numbers, 1 <= min <= opt <= max.

    >>> profile_from_text("1:8:64")
    Profile(min=1, opt=8, max=64)
    """
    try:
        smallest, best, largest = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ExportError(f"--profile {text}: expected MIN:OPT:MAX batch sizes, such as 1:8:64") from error
    if not 1 <= smallest <= best <= largest:
        raise ExportError(f"--profile {text}: expected 1 <= min <= opt <= max")
    return Profile(smallest, best, largest)


def require_supported(flavour: Flavour, options: EngineOptions) -> None:
    """Refuse what the library would ignore, or fail at after minutes; ExportError names the option.

    TensorRT-RTX warns that hardware compatibility is unsupported and goes on without; its timing cache does
    nothing; version-compatible engines need a lean runtime that it does not ship.
    """
    if flavour == "tensorrt":
        return
    refused = {
        "--version-compatible": (
            options.version_compatible,
            "its engines run on the version that built them and no other",
        ),
        f"--hardware-compatible {options.hardware_compatible}": (
            options.hardware_compatible != "none",
            "name the GPUs with --compute-capability, one or more",
        ),
        "--timing-cache": (options.timing_cache is True, "it has none, and measures nothing while building"),
    }
    for option, (asked, instead) in refused.items():
        if asked:
            raise ExportError(f"{option}: TensorRT-RTX cannot: {instead}; --trt can, or leave the option out")
