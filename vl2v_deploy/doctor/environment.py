"""Environment variables that change what this package and its libraries do; secrets are never shown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping

from vl2v_deploy.doctor.findings import Finding
from vl2v_deploy.errors import did_you_mean
from vl2v_deploy.names import shortened, shown

OURS = "VL2V_DEPLOY_"
# Of this package; another name that begins so is a slip of the pen.
KNOWN = (f"{OURS}CACHE",)
# click's, for shell completion; the tests' own.
NOT_SETTINGS = (f"{OURS}TEST_", f"_{OURS}")
_PREFIXES = (
    *(OURS, "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "TIMM_", "ORT_", "OMP_", "GOMP_"),
    *("KMP_", "MKL_", "OPENBLAS_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "XDG_CACHE", "XDG_DATA"),
)
_NAMES = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
_LOGIN = re.compile(r"//[^/@\s]+@")  # user:password in a URL
HIDDEN = "(set; not shown)"


def check_environment() -> Iterator[Finding]:
    """The variables that are set, and those among them that do harm."""
    yield from findings_of(os.environ)


def findings_of(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What an environment holds that matters here."""
    for name in sorted(environment):
        if not _matters(name):
            continue
        value = value_to_show(name, environment[name])
        facts = {"variable": name, "value": value}
        if name.startswith(OURS) and name not in KNOWN and not name.startswith(NOT_SETTINGS):
            what = f"{name} means nothing here{did_you_mean(name, KNOWN)}"
            fix = f"unset {name}, or correct its name"
            yield Finding("environment", "warning", what, fix, {"variable": name})
        else:
            yield Finding("environment", "note", f"{name}={value}", "", facts)
    if environment.get("PYTHONDONTWRITEBYTECODE"):
        yield Finding(
            "environment",
            "warning",
            "PYTHONDONTWRITEBYTECODE is set: every process compiles every module that it imports anew, torch "
            "and its friends take seconds longer",
            "unset PYTHONDONTWRITEBYTECODE",
        )
    if environment.get("LD_PRELOAD") and sys.platform == "linux":
        yield Finding(
            "environment", "note", "LD_PRELOAD puts a library into every process: leave it out of bug hunts"
        )


def value_to_show(name: str, value: str) -> str:
    """The value as printable text; hidden where the name speaks of a secret, as are passwords in URLs.

    >>> value_to_show("HF_TOKEN", "hf_abc"), value_to_show("HTTPS_PROXY", "http://me:word@proxy:3128")
    ('(set; not shown)', 'http://***@proxy:3128')
    """
    if not value:
        return "(empty)"
    if _SECRET.search(name):
        return HIDDEN
    return shortened(_LOGIN.sub("//***@", shown(value)), 200).strip("'\"")


def _matters(name: str) -> bool:
    return name.startswith(_PREFIXES) or name in _NAMES or name.upper() in _PROXIES
