"""Why an execution provider of onnxruntime cannot run here, in words, and what to install.

onnxruntime itself falls back to the CPU with a line in a log. Here its provider library is loaded before it
does, and what the system's loader says is read.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from vl2v_deploy.errors import MissingExtra, ProviderError, did_you_mean

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
SHORT_NAMES = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
Options: TypeAlias = Mapping[str, Any]
Provider: TypeAlias = str | tuple[str, Options]
# What a caller may name: one, or several as onnxruntime takes them, of which the first must run.
Providers: TypeAlias = Provider | Sequence[Provider] | None

# the providers that come as a library of their own, which is loaded when they are first asked for
_LIBRARIES = {CUDA: "onnxruntime_providers_cuda", TENSORRT: "onnxruntime_providers_tensorrt"}
ASSIGNMENT = "get_provider_graph_assignment_info"  # of a session, from onnxruntime 1.24 on
_REDIRECTING = Lock()  # two threads at once would not put standard output back
_TENSORRT_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# The files are the same on every GPU only if products are not rounded to TF32; a caller may say otherwise.
_DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {CUDA: {"use_tf32": "0"}}


def import_onnxruntime() -> Any:
    """onnxruntime, or MissingExtra."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    return onnxruntime


def named_providers(providers: Providers) -> list[tuple[str, dict[str, Any]]]:
    """What was asked for, with full names and options; None is the CPU.

    Raises ProviderError when none is named, or a name is not one that onnxruntime knows.

    >>> named_providers(["cuda", ("cpu", {})])
    [('CUDAExecutionProvider', {'use_tf32': '0'}), ('CPUExecutionProvider', {})]
    """
    match providers:
        case None:
            asked: list[Provider] = [CPU]
        case str():
            asked = [providers]
        case (str(name), Mapping() as options):
            asked = [(name, options)]
        case _:
            asked = list(providers)
    if not asked:
        raise ProviderError("providers: none is named; name one, such as cpu or cuda, or auto")
    return [_named(provider) for provider in asked]


def _named(provider: Provider) -> tuple[str, dict[str, Any]]:
    short, options = (provider, {}) if isinstance(provider, str) else provider
    name = SHORT_NAMES.get(short.lower(), short)
    known = import_onnxruntime().get_all_providers()
    if name not in known:
        raise ProviderError(
            f"no execution provider is called {short!r}{did_you_mean(short, known)}; expected "
            f"{', '.join(SHORT_NAMES)} or a name of onnxruntime's; {available()}"
        )
    return name, _DEFAULT_OPTIONS.get(name, {}) | dict(options)


def problem_with(name: str) -> str | None:
    """Why onnxruntime cannot run this provider here and what to install; None when nothing is amiss yet.

    Whether there is a GPU shows only when a session is made.
    """
    ort = import_onnxruntime()
    if name not in ort.get_available_providers():
        return f"this onnxruntime {ort.__version__} was built without it; {available()}; {_package_for(name)}"
    if name == CPU:
        return None
    if not hasattr(ort.InferenceSession, ASSIGNMENT):
        return (
            f"this onnxruntime {ort.__version__} does not say which operators a provider runs, so that a "
            f"fall-back to the CPU could not be seen; run: pip install '{_package_of(name)}>=1.24'"
        )
    if name not in _LIBRARIES:
        return None
    # It prints what it does not find, and standard output is the caller's.
    with _REDIRECTING, redirect_stdout(sys.stderr):
        ort.preload_dlls()
    if name == TENSORRT:
        _preload_tensorrt()
    problem = loader_problem(provider_library(Path(ort.__file__).parent, name))
    return problem and f"{problem}; {remedy(problem, _cuda_major())}; {available()}"


def provider_library(package: Path, name: str) -> Path:
    """Where onnxruntime keeps the library of a provider.

    package: the folder of the Python package onnxruntime
    """
    stem = _LIBRARIES[name]
    file = f"{stem}.dll" if sys.platform == "win32" else f"lib{stem}.so"
    return package / "capi" / file


def loader_problem(library: Path) -> str | None:
    """What the system's loader says against a library, in one line; None when it loads.

    onnxruntime's own shared part is loaded first, as it would do, since the others take symbols from it.
    """
    shared = library.with_name(re.sub(r"providers_\w+", "providers_shared", library.name))
    for file, mode in ((shared, ctypes.RTLD_GLOBAL), (library, ctypes.DEFAULT_MODE)):
        try:
            ctypes.CDLL(str(file), mode=mode)
        except OSError as error:
            return " ".join(str(error).split())
    return None


def remedy(problem: str, cuda_major: str) -> str:
    """What to install, by the library that the loader misses.

    >>> remedy("libnvinfer.so.10: cannot open shared object file", "13")
    "install TensorRT 10: pip install 'tensorrt-cu13>=10,<11'"
    """
    if found := re.search(r"(?:nvinfer|nvonnxparser)\w*\.so\.(\d+)|nvinfer_(\d+)\.dll", problem):
        major = int(found[1] or found[2])
        return f"install TensorRT {major}: pip install 'tensorrt-cu{cuda_major}>={major},<{major + 1}'"
    if re.search(r"libcuda\.so|nvcuda\.dll", problem):
        return "install NVIDIA's driver, which brings this library; nvidia-smi then lists the GPU"
    return (
        f"install CUDA {cuda_major} and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]', "
        "the extra vl2v-deploy[gpu]"
    )


def no_device(name: str, message: str) -> str:
    """What to do when a provider's libraries load but no session can be made with it."""
    reason = (
        f"onnxruntime says: {' '.join(message.split())}" if message else "onnxruntime fell back to the CPU"
    )
    hint = "see with nvidia-smi whether there is a GPU and a driver that is new enough; " * (
        name in _LIBRARIES
    )
    return f"{reason}; {hint}{available()}"


def available() -> str:
    """The providers that this onnxruntime was built with, for errors."""
    return f"available: {', '.join(import_onnxruntime().get_available_providers())}"


def _package_of(name: str) -> str:
    return "onnxruntime-gpu" if name in _LIBRARIES else "onnxruntime"


def _package_for(name: str) -> str:
    if name in _LIBRARIES:
        return "run: pip uninstall onnxruntime; pip install 'vl2v-deploy[gpu]'"
    return "install the build of onnxruntime that has it"


def _cuda_major() -> str:
    """Of the CUDA that this onnxruntime was built with; 13 where it does not say."""
    from onnxruntime.capi import build_and_package_info

    return str(getattr(build_and_package_info, "cuda_version", "") or "13").partition(".")[0]


def _preload_tensorrt() -> None:
    """Load TensorRT from its pip package, where neither the system's loader looks nor preload_dlls."""
    package = find_spec("tensorrt_libs")
    for folder in (package.submodule_search_locations or []) if package else []:
        for stem in _TENSORRT_LIBRARIES:
            for file in sorted(Path(folder).glob(f"lib{stem}.so.*")):
                try:
                    ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
                except OSError:
                    continue  # the provider library's own loading says what is missing
