"""A comparison's result file: what a reader must know of a run beside its numbers, and how it is written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.procedure import PeerOptions
from vl2v_deploy.benchmarking.worker.device import describe_device
from vl2v_deploy.client.threads import default_threads
from vl2v_deploy.models.device import require_device
from vl2v_deploy.models.versions import package_versions
from vl2v_deploy.recipe import Recipe, recipe_sha256

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1
# How threads wait: on a machine that others use, spinning costs processor time.
THREADING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def device_name(device: torch.device) -> str:
    """What results are filed under: 'cpu-2core', or the GPU's name."""
    if device.type == "cpu":
        return f"cpu-{default_threads().count}core"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")


def git_commit() -> str | None:
    """The commit of this checkout, '+changes' behind it if files differ; None outside of one."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(
            [git, "-C", str(ROOT), *words], check=True, capture_output=True, text=True
        ).stdout

    changed = ask("status", "--porcelain", "--untracked-files=no").strip()
    return ask("rev-parse", "HEAD").strip() + ("+changes" if changed else "")


def header(scenario: str, recipe: Recipe, options: PeerOptions, notes: list[str]) -> dict[str, Any]:
    """What a reader must know of a run beside its numbers."""
    device = require_device(recipe.device)
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/peers/authors_loop.py", *sys.argv[1:]]),
        "scenario": scenario,
        "device_name": device_name(device),
        "device": describe_device(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in THREADING},
        "versions": package_versions(),
        "git_commit": git_commit(),
        "recipe_sha256": recipe_sha256(recipe),
        "recipe": {
            "target": recipe.data.target,
            "student": recipe.student.backbone,
            "align": recipe.align.model_dump(mode="json"),
            "distill": recipe.distill.model_dump(mode="json"),
        },
        "authors_options": {"workers": options.workers, "backbone_gradients": options.backbone_gradients},
        "notes": notes,
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False)
    # A list of numbers on one line: a JSON string holds no raw newline, so nothing else can match.
    path.write_text(re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n")
