"""Where unpacked archives and assembled models are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The cache folder, made if need be: $VL2V_DEPLOY_CACHE, else the user's cache for vl2v-deploy."""
    named = os.environ.get("VL2V_DEPLOY_CACHE")
    path = Path(named) if named else Path(platformdirs.user_cache_dir("vl2v-deploy", appauthor=False))
    path.mkdir(parents=True, exist_ok=True)
    return path
