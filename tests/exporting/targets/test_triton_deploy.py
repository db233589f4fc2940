"""The Compose file and the InferenceService beside the models: their form, and that they fit the models."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.deployment_schemas import COMPOSE, INFERENCE_SERVICE
from tests.helpers.manifests import made_up_passport
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.exporting.targets.triton_config import Model
from vl2v_deploy.exporting.targets.triton_deploy import RELEASE, compose_text, service_text


@pytest.fixture
def passport(tmp_path: Any) -> Passport:
    plan = tmp_path / "student.fp32.plan"
    plan.write_bytes(b"plan")
    return made_up_passport(plan, version_compatible=True)


CPU = (Model("student_fp32", "student.onnx", "onnxruntime", "fp32", "cpu", 64),)
GPU = (*CPU, Model("student_fp16", "student.fp16.onnx", "onnxruntime", "fp16", "gpu", 64))


def parsed(models: Sequence[Model]) -> tuple[Any, Any]:
    """The service of the Compose file and the model of the InferenceService, both in the right form."""
    compose, service = yaml.safe_load(compose_text(models)), yaml.safe_load(service_text(models))
    jsonschema.validate(compose, COMPOSE)
    jsonschema.validate(service, INFERENCE_SERVICE)
    [triton] = compose["services"].values()
    return triton, service["spec"]["predictor"]["model"]


def test_a_cpu_is_enough_where_no_model_needs_a_gpu() -> None:
    triton, model = parsed(CPU)
    assert "deploy" not in triton and "args" not in model
    assert set(model["resources"]["limits"]) == {"cpu", "memory"}


def test_a_gpu_is_reserved_where_a_model_needs_one() -> None:
    triton, model = parsed(GPU)
    [device] = triton["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_engines_of_other_versions_are_trusted_by_both(passport: Passport) -> None:
    engine = Model("student_fp32_trt", passport.plan, "tensorrt", "fp32", "gpu", 8, (8,), passport)
    triton, model = parsed((engine,))
    assert triton["command"][-1] == "--backend-config=tensorrt,version-compatible=true" == model["args"][0]


def test_both_serve_this_folder_by_the_same_release() -> None:
    triton, model = parsed(CPU)
    [volume] = triton["volumes"]
    assert f"--model-repository={volume['target']}" in triton["command"] and volume["source"] == "."
    assert triton["image"].endswith(f":{RELEASE}-py3") and model["runtimeVersion"] == f"{RELEASE}-py3"
    how, python, option, program = triton["healthcheck"]["test"]
    assert (how, python, option) == ("CMD", "python3", "-c")
    compile(program, "healthcheck", "exec")
    port = re.findall(r"localhost:(\d+)/v2/health/ready", program)
    assert f"{port[0]}:{port[0]}" in triton["ports"]


def test_neither_claims_to_have_been_run() -> None:
    for text in (compose_text(CPU), service_text(CPU)):
        assert text.startswith("# Not run where it was made")
    [command] = re.findall(r"kubectl .*", service_text(CPU))
    assert shlex.split(command)[-1] == "inferenceservice.yaml"


@pytest.mark.parametrize(
    ("text", "schema", "right", "wrong"),
    [
        (compose_text(GPU), COMPOSE, "healthcheck:", "healthchek:"),
        (compose_text(GPU), COMPOSE, "interval: 10s", "interval: 10"),
        (compose_text(GPU), COMPOSE, "read_only: true", "read_only: false"),
        (service_text(GPU), INFERENCE_SERVICE, "v1beta1", "v1"),
        (service_text(GPU), INFERENCE_SERVICE, "modelFormat:", "modelformat:"),
        (service_text(GPU), INFERENCE_SERVICE, "nvidia.com/gpu: '1'", "nvidia.com/gpu: 1"),
        (service_text(GPU), INFERENCE_SERVICE, "name: student", "name: Student"),
    ],
)
def test_the_schemas_refuse_what_is_wrong(text: str, schema: Any, right: str, wrong: str) -> None:
    assert text.count(right) == 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace(right, wrong)), schema)
