"""How a Triton model repository is served: a Compose file and a KServe InferenceService beside its models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from vl2v_deploy.exporting.targets.triton_config import Model

COMPOSE, SERVICE = "compose.yaml", "inferenceservice.yaml"
# Its onnxruntime is 1.20; our files are of IR version 10, which came with 1.18.
RELEASE = "25.03"
# The image has Python in any release; curl is not promised.
_IS_READY = "import urllib.request as r; r.urlopen('http://localhost:8000/v2/health/ready', timeout=5)"
_NOT_RUN = "Not run where it was made: no server was started, only its form was checked"


def compose_text(models: Sequence[Model]) -> str:
    """A Compose file for the folder that it lies in; it waits until every model is loaded.

    models: that the folder holds, at least one
    """
    service: dict[str, Any] = {
        "image": f"nvcr.io/nvidia/tritonserver:{RELEASE}-py3",
        "command": ["tritonserver", "--model-repository=/models", *server_options(models)],
        "ports": ["8000:8000", "8001:8001", "8002:8002"],
        "volumes": [{"type": "bind", "source": ".", "target": "/models", "read_only": True}],
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", _IS_READY],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": "120s",
        },
    }
    if on_gpu(models):
        device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    head = (
        f"# {_NOT_RUN}.\n# In this folder: docker compose up --detach --wait\n"
        "# Ports: 8000 HTTP, 8001 gRPC, 8002 metrics for Prometheus.\n"
    )
    return head + _yaml({"services": {"triton": service}})


def service_text(models: Sequence[Model]) -> str:
    """KServe's InferenceService for the models, once they lie where the cluster reads from."""
    limits = {"nvidia.com/gpu": "1"} if on_gpu(models) else {"cpu": "2"}
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton"},
        "runtime": "kserve-tritonserver",
        "protocolVersion": "v2",
        "runtimeVersion": f"{RELEASE}-py3",
        "storageUri": "s3://BUCKET/FOLDER",
        "resources": {"limits": limits | {"memory": "4Gi"}},
    }
    if options := server_options(models):
        model["args"] = options  # after those of the runtime
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "student"},
        "spec": {"predictor": {"model": model}},
    }
    head = f"# {_NOT_RUN}.\n# Set storageUri, then: kubectl apply -f {SERVICE}\n"
    return head + _yaml(service)


def server_options(models: Sequence[Model]) -> list[str]:
    """What the server must be told beside where the models are."""
    trusting = any(model.passport and model.passport.version_compatible for model in models)
    return ["--backend-config=tensorrt,version-compatible=true"] if trusting else []


def on_gpu(models: Sequence[Model]) -> bool:
    """Whether a model needs a GPU."""
    return any(model.device == "gpu" for model in models)


def _yaml(tree: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(tree, sort_keys=False, width=110)
    return text
