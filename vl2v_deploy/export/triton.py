"""`export --triton DIR`: a model repository for NVIDIA Triton and KServe, from a finished bundle.

    DIR/
      README.md             what each model is, how to start a server, how to ask it
      vl2v-deploy.json      the bundle it came from, and the SHA-256 of every file
      student_fp32/         one folder a model, named after it
        config.pbtxt        names, types and shapes as in the file; batching; where it runs
        labels.txt          a class a line, in the order of the logits
        1/model.onnx        the bundle's file (or model.plan), unchanged

Triton reads folders only, so the two files at the top do not disturb it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy import __version__
from vl2v_deploy.client.bundle import MANIFEST, open_bundle, sha256_of
from vl2v_deploy.errors import ExportError
from vl2v_deploy.export.triton_config import DEFAULTS, LABELS, Model, TritonOptions, config_text, models_of
from vl2v_deploy.export.triton_readme import README, readme_text
from vl2v_deploy.models.run_directory import OWNER, whole_folder

RECORD, CONFIG = "vl2v-deploy.json", "config.pbtxt"


@dataclass(frozen=True)
class Repository:
    """What was written.

    models:   in the order of the bundle's files
    left_out: file of the bundle -> why Triton does not get it
    """

    path: Path
    models: tuple[Model, ...]
    left_out: Mapping[str, str]


def write_triton(
    bundle: Path, out: Path, options: TritonOptions = DEFAULTS, *, overwrite: bool = False
) -> Repository:
    """Write the model repository of a bundle to `out`, whole or not at all.

    overwrite: also replace a repository of ours in which something was changed or added since

    Raises BundleError for a damaged bundle, ExportError when `out` is in the way (`require_free_repository`).
    """
    require_free_repository(bundle, out, overwrite)
    opened = open_bundle(bundle)
    models, left_out = models_of(opened, options)
    with whole_folder(out, RECORD) as partial:
        (partial / RECORD).write_text("{}\n", encoding="utf-8")  # marks it as ours from the start
        for model in models:
            folder = partial / model.name
            (folder / "1").mkdir(parents=True)
            shutil.copyfile(opened.path / model.file, folder / "1" / model.model_file)
            (folder / LABELS).write_text("".join(f"{name}\n" for name in opened.classes), encoding="utf-8")
            (folder / CONFIG).write_text(config_text(opened, model, options), encoding="utf-8")
        (partial / README).write_text(readme_text(opened, models, left_out), encoding="utf-8")
        record = {
            "made_by": f"vl2v-deploy {__version__}",
            "bundle": {
                "name": opened.path.resolve().name,
                "manifest_sha256": sha256_of(opened.path / MANIFEST),
            },
            "files": {name: sha256_of(partial / name) for name in _files(partial)},
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Repository(out, models, left_out)


def require_free_repository(bundle: Path, out: Path, overwrite: bool = False) -> None:
    """ExportError when a repository must not be written to `out`; to be asked before a long export.

    It may be empty, or a repository of ours that nobody has changed.
    """
    if out.resolve().is_relative_to(bundle.resolve()) or bundle.resolve().is_relative_to(out.resolve()):
        raise ExportError(
            f"{out}: bundle and Triton repository may not lie in each other; pass another folder"
        )
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: is a file; pass a folder for the Triton repository")
    if not any(out.iterdir()):
        return
    try:
        made = dict(json.loads((out / RECORD).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{out}: is not empty and holds no Triton repository made here; pass another folder"
        ) from error
    others = [name for name in _files(out) if made.get(name) != sha256_of(out / name)]
    if others and not overwrite:
        raise ExportError(
            f"{out}: {', '.join(others[:3])}{', ...' * (len(others) > 3)}: changed or added since it was "
            "made; pass --overwrite to replace all of it, or another folder"
        )


def _files(folder: Path) -> list[str]:
    """Every file, relative, but for those that say whose it is."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in (RECORD, OWNER))
