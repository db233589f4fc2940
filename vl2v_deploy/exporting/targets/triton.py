"""`export --triton DIR`: a model repository for NVIDIA Triton and KServe, from a finished bundle.

    DIR/
      README.md             what each model is, how to start a server, how to query it
      compose.yaml          a server for Docker Compose
      inferenceservice.yaml a server for KServe
      vl2v-deploy.json      the bundle it came from, and the SHA-256 of every file
      student_fp32/         one folder per model, named after it
        config.pbtxt        names, types and shapes as in the file; batching; where it runs
        labels.txt          one class per line, in the order of the logits
        1/model.onnx        the bundle's file (or model.plan), unchanged

Triton reads folders only, so the files at the top do not disturb it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vl2v_deploy.client.bundle import open_bundle
from vl2v_deploy.exporting.targets.triton_config import (
    DEFAULTS,
    LABELS,
    Model,
    TritonOptions,
    config_text,
    models_of,
)
from vl2v_deploy.exporting.targets.triton_deploy import COMPOSE, SERVICE, compose_text, service_text
from vl2v_deploy.exporting.targets.triton_readme import README, readme_text
from vl2v_deploy.exporting.targets.written_folder import require_free_folder, written_folder
from vl2v_deploy.names import shown

CONFIG = "config.pbtxt"
WHAT = "Triton repository"


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

    Raises BundleError for a damaged bundle, ExportError when `out` is in the way (`require_free_folder`).
    """
    require_free_folder(bundle, out, WHAT, overwrite=overwrite)
    opened = open_bundle(bundle)
    models, left_out = models_of(opened, options)
    with written_folder(opened, out, WHAT) as partial:
        for model in models:
            folder = partial / model.name
            (folder / "1").mkdir(parents=True)
            shutil.copyfile(opened.path / model.file, folder / "1" / model.model_file)
            (folder / LABELS).write_text(
                "".join(f"{shown(name)}\n" for name in opened.classes), encoding="utf-8"
            )
            (folder / CONFIG).write_text(config_text(opened, model, options), encoding="utf-8")
        (partial / COMPOSE).write_text(compose_text(models), encoding="utf-8")
        (partial / SERVICE).write_text(service_text(models), encoding="utf-8")
        (partial / README).write_text(readme_text(opened, models, left_out), encoding="utf-8")
    return Repository(out, models, left_out)
