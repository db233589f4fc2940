"""Children of os.fork end as usual, though onnxruntime's threads were not copied with the rest.

Importing onnxruntime (1.32) already starts a thread, and the library's destructor waits until that thread has
left a condition variable: in a child, which has no such thread, exit() never returns, whether the child uses
onnxruntime or not. Freeing a session that was inherited waits for the session's threads likewise.

So in a child that is forked after onnxruntime was imported, inherited sessions are kept, and the process ends
as multiprocessing's children do: once Python is finalized, its `atexit` functions included, C's streams are
flushed and _exit is called. What C and C++ libraries registered before the fork to be called at exit, is not.
VL2V_DEPLOY_FORKED_EXIT=usual leaves the end of children alone.
"""

from __future__ import annotations

import os
import sys
import weakref
from ctypes import CDLL, py_object, pythonapi
from typing import Any

VARIABLE, USUAL = "VL2V_DEPLOY_FORKED_EXIT", "usual"
_opened: weakref.WeakSet[Any] = weakref.WeakSet()  # every session of this process


def keep_in_children(session: Any) -> None:
    """A session that a child must not free."""
    _opened.add(session)


def _survive_fork() -> None:
    for session in list(_opened):
        pythonapi.Py_IncRef(py_object(session))
    _opened.clear()
    if _LIBC and "onnxruntime" in sys.modules and os.environ.get(VARIABLE) != USUAL:
        _LIBC.on_exit(_LIBC._exit, None)  # the last that is registered runs first
        _LIBC.on_exit(_LIBC.fcloseall, None)


def _libc_with_on_exit() -> CDLL | None:
    """glibc, its functions looked up: the loader's lock may be held when a child needs them."""
    libc = CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("on_exit", "_exit", "fcloseall")) else None


if hasattr(os, "register_at_fork"):
    _LIBC = _libc_with_on_exit()
    os.register_at_fork(after_in_child=_survive_fork)
