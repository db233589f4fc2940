"""A teacher that is paid by the query: one adapter for each API over one transport.

Importing this package imports neither torch nor pydantic: `models.teacher.api` asks an API without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vl2v_deploy.models.teacher.http.teacher import HttpTeacher, load_http

__all__ = ["HttpTeacher", "load_http"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.teacher"), name)
