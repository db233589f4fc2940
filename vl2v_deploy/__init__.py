"""Distill a vision-language teacher into a small student, export it, and measure what was lost and saved.

The Python API is `load_recipe`, `distill`, `distill_all`, `export`, `benchmark`, `look` and `Student`,
described in `vl2v_deploy.api`. Importing this package imports neither torch nor onnxruntime: a name is loaded
when it is first used. Applications that only run a student import `vl2v_deploy.client`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vl2v_deploy.api import benchmark, distill, distill_all, export, look
    from vl2v_deploy.client import Student
    from vl2v_deploy.models.teacher.api import ApiTeacher
    from vl2v_deploy.recipe import load_recipe

__version__ = "0.1.0"
__all__ = [
    "ApiTeacher",
    "Student",
    "__version__",
    "benchmark",
    "distill",
    "distill_all",
    "export",
    "load_recipe",
    "look",
]

_HOME = {
    "ApiTeacher": "models.teacher.api",
    "Student": "client",
    "benchmark": "api",
    "distill": "api",
    "distill_all": "api",
    "export": "api",
    "load_recipe": "recipe",
    "look": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vl2v_deploy' has no attribute {name!r}")
    return getattr(import_module(f"vl2v_deploy.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
