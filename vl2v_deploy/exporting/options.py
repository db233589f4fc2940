"""What a bundle is to hold, as types that check themselves: a wrong value is refused before any work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vl2v_deploy.client.bundle import PRECISIONS, Precision, engine_precision, numeric
from vl2v_deploy.client.passport import Flavour, HardwareCompatible, Profile
from vl2v_deploy.errors import ExportError, did_you_mean

DEFAULT_PROFILE = Profile(1, 8, 64)
HIGHEST_LEVEL = 5  # the library silently takes anything above for 5


@dataclass(frozen=True)
class EngineRequest:
    """A TensorRT engine to build from each ONNX file; the builder's defaults are the library's, but for TF32.

    flavour:              tensorrt, on the GPU that will run it, or tensorrt_rtx, anywhere
    compute_capabilities: of the GPUs it is for, such as '8.6', for tensorrt_rtx; empty = of the GPU here
    builder_level:        0 (fastest build) to 5 (fastest engine); None = the library's own, 3
    workspace_bytes:      most scratch memory a layer may use; None = the library's own limit
    tf32:                 multiply fp32 matrices with ten bits of mantissa; off, so that fp32 means fp32
    version_compatible:   the engine also runs on later versions of TensorRT, a little slower
    hardware_compatible:  none = this model of GPU; same-capability = every GPU of its compute capability;
                          ampere-plus = every GPU from compute capability 8.0 on; the wider, the slower
    timing_cache:         keep measured kernel times between builds; None = where the library can

    Raises ExportError for a value out of range, and for an option that TensorRT-RTX would ignore.
    """

    flavour: Flavour
    profile: Profile = DEFAULT_PROFILE
    compute_capabilities: tuple[str, ...] = ()
    builder_level: int | None = None
    workspace_bytes: int | None = None
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: HardwareCompatible = "none"
    timing_cache: bool | None = None

    def __post_init__(self) -> None:
        _require_one_of("flavour", self.flavour, get_args(Flavour))
        _require_one_of("hardware_compatible", self.hardware_compatible, get_args(HardwareCompatible))
        profile = self.profile
        _require("profile", profile, 1 <= profile.min <= profile.opt <= profile.max, "1 <= min <= opt <= max")
        level, levels = self.builder_level, range(HIGHEST_LEVEL + 1)
        _require("builder_level", level, level is None or level in levels, f"0 to {HIGHEST_LEVEL}")
        workspace = self.workspace_bytes
        _require("workspace_bytes", workspace, workspace is None or workspace >= 1, "at least 1")
        targets = self.compute_capabilities
        _require("compute_capabilities", targets, len(set(targets)) == len(targets), "each of them once")
        if self.flavour == "tensorrt":
            expected = "none for tensorrt, which builds for the GPU that is here"
            _require("compute_capabilities", targets, not targets, expected)
        else:
            _require_rtx_can(self)


@dataclass(frozen=True)
class ExportOptions:
    """What `export` makes of a run.

    precisions:         that were asked for; every bundle holds fp32 too
    max_accuracy_drop:  points of source validation accuracy that int8 may cost
    max_fp32_share:     largest share of MACs left in fp32 in an fp16 or int8 file, in [0, 1]
    calibration_images: most source training images to calibrate fp16 and int8 on
    coverage:           share of source validation images above the threshold of abstention, in (0, 1]
    max_images:         most held-out images of a domain to measure accuracy on; None = all
    data_root:          where the run's images are now; None = as in its recipe
    allow_changed_data: go on when they are not the images that the run was distilled from
    skip_refused:       write the bundle without the precisions that this student cannot have; the manifest
                        and the report name them. Otherwise they are an error, and nothing is written
    engines:            TensorRT engines to build, each in every one of `engine_precisions`

    Raises ExportError for a value out of range.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    max_accuracy_drop: float = 0.5
    max_fp32_share: float = 0.2
    calibration_images: int = 256
    coverage: float = 0.9
    max_images: int | None = 1000
    data_root: Path | None = None
    allow_changed_data: bool = False
    skip_refused: bool = False
    engines: tuple[EngineRequest, ...] = ()

    def __post_init__(self) -> None:
        _require(
            "precisions", self.precisions, bool(self.precisions), f"one or more of {', '.join(PRECISIONS)}"
        )
        for precision in self.precisions:
            _require_one_of("precisions", precision, PRECISIONS)
        drop, share = self.max_accuracy_drop, self.max_fp32_share
        _require("max_accuracy_drop", drop, math.isfinite(drop) and drop >= 0, "a number of at least 0")
        _require("max_fp32_share", share, 0 <= share <= 1, "a share from 0 to 1")
        _require("coverage", self.coverage, 0 < self.coverage <= 1, "a share above 0, at most 1")
        _require("calibration_images", self.calibration_images, self.calibration_images >= 1, "at least 1")
        most = self.max_images
        _require("max_images", most, most is None or most >= 1, "at least 1, or None for all")

    @property
    def files(self) -> tuple[Precision, ...]:
        """Precisions to write an ONNX file of: fp32, those asked for, those that engines are built from."""
        wanted = {"fp32", *self.precisions}
        if self.engines:
            wanted.update(map(engine_precision, self.precisions))
        return tuple(precision for precision in PRECISIONS if precision in wanted)

    @property
    def engine_precisions(self) -> tuple[Precision, ...]:
        """What each engine is built in: fp32, fp16 or int8, of those asked for."""
        return tuple(dict.fromkeys(map(numeric, self.precisions)))


def precisions_from_text(text: str) -> tuple[Precision, ...]:
    """The precisions of a comma-separated list, in their fixed order.

    Raises ExportError for an unknown one.

    >>> precisions_from_text("int8,fp16")
    ('fp16', 'int8')
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    for part in wanted:
        _require_one_of("precisions", part, PRECISIONS)
    return tuple(precision for precision in PRECISIONS if precision in wanted)


def profile_from_text(text: str) -> Profile:
    """The profile written as MIN:OPT:MAX batch sizes; ExportError unless they are three whole numbers.

    >>> profile_from_text("1:8:64")
    Profile(min=1, opt=8, max=64)
    """
    try:
        smallest, best, largest = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise ExportError(f"profile {text}: expected MIN:OPT:MAX batch sizes, such as 1:8:64") from error
    return Profile(smallest, best, largest)


def _require_rtx_can(request: EngineRequest) -> None:
    """Refuse what TensorRT-RTX would ignore, or fail at after minutes.

    It warns that hardware compatibility is unsupported and goes on without; its timing cache does nothing;
    version-compatible engines need a lean runtime that it does not ship.
    """
    instead = "leave the option out, or build with tensorrt"
    for option, asked, why in (
        (
            "version_compatible",
            request.version_compatible,
            "its engines run only on the version that built them",
        ),
        (
            f"hardware_compatible {request.hardware_compatible}",
            request.hardware_compatible != "none",
            "name the GPUs' compute capabilities, one or more",
        ),
        ("timing_cache", request.timing_cache is True, "it measures nothing while building"),
    ):
        if asked:
            raise ExportError(f"{option}: TensorRT-RTX cannot do that: {why}; {instead}")


def _require(option: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ExportError(f"{option} {value}: expected {expected}")


def _require_one_of(option: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        known = list(choices)
        raise ExportError(f"{option} {value}: expected {', '.join(known)}{did_you_mean(str(value), known)}")
