"""A tiny recipe of several runs, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def vl2v(*words: str | Path, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`vl2v-deploy WORDS` with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vl2v_deploy", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"VL2V_DEPLOY_CACHE": str(cache)} | env,
    )
