"""Where things are kept between runs: what can be made again in a cache, what was paid for beside it."""

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


def kept_dir(name: str) -> Path:
    """The folder `name` of what a cleared cache must not lose, such as paid answers; it is not made here.

    $VL2V_DEPLOY_CACHE holds it too; else it is in the user's data folder. It was in the user's cache before,
    from where it is moved.
    """
    if named := os.environ.get("VL2V_DEPLOY_CACHE"):
        return Path(named) / name
    kept = Path(platformdirs.user_data_dir("vl2v-deploy", appauthor=False)) / name
    earlier = Path(platformdirs.user_cache_dir("vl2v-deploy", appauthor=False)) / name
    if earlier.is_dir() and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            earlier.rename(kept)
        except FileNotFoundError:  # another process has just moved it
            return kept
        except OSError:  # on another disk
            return earlier
    return kept
