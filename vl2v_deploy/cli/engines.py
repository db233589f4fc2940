"""The options of TensorRT engines, which `export` and `relabel` share, and the engines that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import click

from vl2v_deploy.errors import ExportError

if TYPE_CHECKING:
    from vl2v_deploy.exporting.options import EngineRequest

_ENGINES = (
    click.option("--trt", is_flag=True, help="Also build TensorRT engines, on the GPU that is here."),
    click.option("--rtx", is_flag=True, help="Also build TensorRT-RTX engines; needs no GPU."),
    click.option("--profile", help="Batch sizes MIN:OPT:MAX of the engines.  [default: 1:8:64]"),
    click.option("--compute-capability", default="", help="GPUs to build --rtx for, such as 8.6,8.9,12.0."),
)
_BUILDER = (
    click.option("--tf32", is_flag=True, help="Let fp32 engines multiply with ten bits of mantissa."),
    click.option(
        "--builder-level",
        type=click.IntRange(0, 5),
        help="0 = fastest build, 5 = fastest engine.  [default: the library's, 3]",
    ),
    click.option("--workspace-mib", type=click.IntRange(min=1), help="Most scratch memory of an engine."),
    click.option(
        "--version-compatible", is_flag=True, help="--trt engines that later versions of TensorRT run too."
    ),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["none", "same-capability", "ampere-plus"]),
        default="none",
        show_default=True,
        help="--trt engines for other GPUs than the one here.",
    ),
    click.option("--timing-cache/--no-timing-cache", default=None, help="Keep kernel times between builds."),
)
# of the builder's options, by the names of EngineRequest's fields
_DEFAULTS: dict[str, Any] = {
    "tf32": False,
    "builder_level": None,
    "version_compatible": False,
    "hardware_compatible": "none",
    "timing_cache": None,
}


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which engines to build."""
    return reduce(lambda made, option: option(made), reversed(_ENGINES), command)


def builder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how the builder goes about it."""
    return reduce(lambda made, option: option(made), reversed(_BUILDER), command)


def engines_from_options(options: Mapping[str, Any]) -> tuple[EngineRequest, ...]:
    """The engines that the values of these options ask for.

    Raises ExportError for a wrong value, or an option of engines that are not asked for.
    """
    from vl2v_deploy.exporting.options import EngineRequest, profile_from_text

    given = {
        name: options[name] for name, default in _DEFAULTS.items() if options.get(name, default) != default
    }
    if workspace_mib := options.get("workspace_mib"):
        given["workspace_bytes"] = workspace_mib * 2**20
    if options["profile"] is not None:
        given["profile"] = profile_from_text(options["profile"])
    if given and not (options["trt"] or options["rtx"]):
        raise ExportError("options of an engine go with --trt or --rtx, and neither is given")
    capabilities = tuple(part.strip() for part in options["compute_capability"].split(",") if part.strip())
    if capabilities and not options["rtx"]:
        raise ExportError("--compute-capability goes with --rtx: TensorRT builds for the GPU that is here")
    engines = [EngineRequest("tensorrt", **given)] if options["trt"] else []
    if options["rtx"]:
        engines.append(EngineRequest("tensorrt_rtx", compute_capabilities=capabilities, **given))
    return tuple(engines)
