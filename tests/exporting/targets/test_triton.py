"""The Triton model repository, against Triton's published schema and the files that it serves."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format

from tests.helpers.manifests import made_up_passport
from tests.helpers.tiny_bundle import add_precision, change_manifest, make_bundle
from vl2v_deploy.client import Student
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.passport import Passport, Profile
from vl2v_deploy.client.typed_json import to_json
from vl2v_deploy.errors import BundleError, ExportError
from vl2v_deploy.exporting.targets.triton import Repository, TritonOptions, write_triton
from vl2v_deploy.exporting.tensorrt.passport import mark_unusable, write_passport

TYPES = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}


def load_schema() -> Any:
    """Triton's model_config.proto as its client package carries it; read from its file, as importing the
    package that it lies in needs grpc, whose client wants an older protobuf than ours."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = load_schema()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_bundle(tmp_path_factory.mktemp("triton"))
    add_precision(made, "int8")
    add_precision(made, "int8-symmetric")
    return made


@pytest.fixture
def engines(bundle: Path, tmp_path: Path) -> Path:
    """The bundle with TensorRT engines, as far as files can tell."""
    copy = tmp_path / "with-engines"
    shutil.copytree(bundle, copy)
    made = [
        add_engine(copy, "student.fp32.plan", precision="fp32", usable=True),
        add_engine(copy, "student.int8.plan", precision="int8", profile=Profile(2, 8, 8)),
        add_engine(copy, "student.fp32.rtx-sm86.plan", flavour="tensorrt_rtx", precision="fp32"),
    ]
    engines = {passport.plan: to_json(passport) for passport in made}
    change_manifest(copy, lambda manifest: manifest.update(engines=engines))
    return copy


def add_engine(bundle: Path, name: str, **changed: Any) -> Passport:
    plan = bundle / name
    plan.write_bytes(name.encode())
    passport = made_up_passport(
        plan, version="10.13.3", gpu="NVIDIA L4", compute_capabilities=("8.9",), **changed
    )
    write_passport(plan, passport)
    return passport


def configs(repository: Path) -> dict[str, Any]:
    """Every config.pbtxt, parsed by the published schema: an unknown field or a wrong type is an error."""
    return {
        path.parent.name: text_format.Parse(path.read_text(encoding="utf-8"), SCHEMA.ModelConfig())
        for path in sorted(repository.glob("*/config.pbtxt"))
    }


def type_name(value: int) -> str:
    return str(SCHEMA.DataType.Name(value))


def test_every_model_is_what_its_onnx_file_says(bundle: Path, tmp_path: Path) -> None:
    made = write_triton(bundle, tmp_path / "models")
    found = configs(tmp_path / "models")
    assert [model.name for model in made.models] == list(found) == ["student_fp32", "student_int8"]
    for model in made.models:
        config = found[model.name]
        assert (config.name, config.backend, config.platform) == (
            model.name,
            "onnxruntime",
            "onnxruntime_onnx",
        )
        file = tmp_path / "models" / model.name / "1" / config.default_model_filename
        assert file.name == "model.onnx"
        assert sha256_of(file) == sha256_of(bundle / model.file)
        graph = onnx.load(file).graph
        for declared, actual in ((config.input, graph.input), (config.output, graph.output)):
            assert {tensor.name for tensor in declared} == {value.name for value in actual}
            for tensor in declared:
                [value] = [value for value in actual if value.name == tensor.name]
                shape = value.type.tensor_type.shape.dim
                assert shape[0].dim_param  # the batch, which Triton adds itself
                assert list(tensor.dims) == [dim.dim_value for dim in shape[1:]]
                assert type_name(tensor.data_type) == TYPES[value.type.tensor_type.elem_type]


def test_labels_are_the_classes_in_the_order_of_the_logits(bundle: Path, tmp_path: Path) -> None:
    write_triton(bundle, tmp_path / "models")
    for name, config in configs(tmp_path / "models").items():
        labelled = {tensor.name: tensor.label_filename for tensor in config.output}
        assert labelled == {"logits": "labels.txt", "embedding": ""}
        labels = (tmp_path / "models" / name / "labels.txt").read_text(encoding="utf-8").splitlines()
        assert tuple(labels) == Student.load(bundle).classes


def test_engines_have_their_profiles_batches(engines: Path, tmp_path: Path) -> None:
    made = write_triton(engines, tmp_path / "models", TritonOptions(max_batch=16))
    found = configs(tmp_path / "models")
    assert list(found) == ["student_fp32", "student_fp32_trt", "student_int8", "student_int8_trt"]
    plan = found["student_fp32_trt"]
    assert (plan.backend, plan.platform) == ("tensorrt", "tensorrt_plan")
    assert (plan.max_batch_size, list(plan.dynamic_batching.preferred_batch_size)) == (64, [8, 64])
    assert [group.kind for group in plan.instance_group] == [SCHEMA.ModelInstanceGroup.KIND_GPU]
    assert [list(tensor.dims) for tensor in plan.input] == [[32, 32, 3]]
    file = tmp_path / "models" / "student_fp32_trt" / "1" / plan.default_model_filename
    assert file.read_bytes() == (engines / "student.fp32.plan").read_bytes()
    assert list(found["student_int8_trt"].dynamic_batching.preferred_batch_size) == [8]
    assert found["student_fp32"].max_batch_size == 16
    assert set(made.left_out) == {"student.int8-symmetric.onnx", "student.fp32.rtx-sm86.plan"}


def test_what_triton_itself_checks_when_it_loads_a_configuration(engines: Path, tmp_path: Path) -> None:
    """Its model_config_utils.cc: name of the folder, sizes within bounds, something to run on."""
    for number, options in enumerate((TritonOptions(), TritonOptions("gpu", 1, 0))):
        folder = tmp_path / str(number)
        write_triton(engines, folder, options)
        for name, config in configs(folder).items():
            assert config.name == name
            assert config.max_batch_size >= 1
            batching = config.dynamic_batching
            assert all(0 < size <= config.max_batch_size for size in batching.preferred_batch_size)
            assert config.HasField("dynamic_batching") == (config.max_batch_size > 1)
            assert [group.count for group in config.instance_group] == [1]
            assert config.version_policy.latest.num_versions == 1
            assert all(dim > 0 for tensor in (*config.input, *config.output) for dim in tensor.dims)
            assert (folder / name / "1").is_dir()


def test_onnx_models_run_where_the_user_says(bundle: Path, tmp_path: Path) -> None:
    kinds = SCHEMA.ModelInstanceGroup
    for device, kind in (("cpu", kinds.KIND_CPU), ("gpu", kinds.KIND_GPU)):
        write_triton(bundle, tmp_path / device, TritonOptions(device, 8, 1500))  # type: ignore[arg-type]
        config = configs(tmp_path / device)["student_fp32"]
        assert [group.kind for group in config.instance_group] == [kind]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1500
        assert config.max_batch_size == 8


def test_an_engine_with_wrong_answers_is_left_out(engines: Path, tmp_path: Path) -> None:
    mark_unusable(engines / "student.fp32.plan", "labels differ")
    change_manifest(engines, lambda manifest: None)
    made = write_triton(engines, tmp_path / "models")
    assert made.left_out["student.fp32.plan"] == "marked unusable: labels differ"
    assert "student_fp32_trt" not in configs(tmp_path / "models")
    assert "labels differ" in (tmp_path / "models" / "README.md").read_text()


def test_the_readme_tells_what_there_is(engines: Path, bundle: Path, tmp_path: Path) -> None:
    write_triton(engines, tmp_path / "models")
    text = (tmp_path / "models" / "README.md").read_text()
    accuracy = json.loads((bundle / "manifest.json").read_text())["precisions"]["fp32"]["accuracy"]
    shown = f"{100 * accuracy['id']:.1f} | {100 * accuracy['ood']:.1f} |"
    assert f"| `student_fp32` | `student.onnx` | onnxruntime | CPU | 64 | {shown}" in text
    assert f"| `student_int8_trt` | `student.int8.plan` | tensorrt | GPU | 8 | {shown}" in text
    assert "`student_int8_trt` was built with TensorRT 10.13.3 for NVIDIA L4" in text
    assert "refuses batches of fewer than 2" in text
    assert text.count("have not been compared") == 1
    assert "student.fp32.rtx-sm86.plan`: Triton's TensorRT backend cannot load" in text
    assert "--gpus all" in text and "version-compatible=true" not in text
    assert "no Triton server was started" in text
    [service] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert service["kind"] == "InferenceService"
    model = service["spec"]["predictor"]["model"]
    assert (model["modelFormat"], model["protocolVersion"]) == ({"name": "triton"}, "v2")
    assert "nvidia.com/gpu" in model["resources"]["limits"]


def test_a_version_compatible_engine_needs_a_server_that_trusts_it(engines: Path, tmp_path: Path) -> None:
    passport = add_engine(engines, "student.fp32.plan", version_compatible=True)
    change_manifest(
        engines, lambda manifest: manifest.update(engines={"student.fp32.plan": to_json(passport)})
    )
    write_triton(engines, tmp_path / "models")
    text = (tmp_path / "models" / "README.md").read_text()
    assert "--backend-config=tensorrt,version-compatible=true" in text
    assert "Later versions of TensorRT run it too" in text


def test_accuracy_that_is_not_known_is_not_claimed(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "relabelled"
    shutil.copytree(bundle, copy)

    def forget(manifest: dict[str, Any]) -> None:
        manifest["confidence"]["abstain_below"] = None
        for record in manifest["precisions"].values():
            record["accuracy"] = None

    change_manifest(copy, forget)
    write_triton(copy, tmp_path / "models")
    text = (tmp_path / "models" / "README.md").read_text()
    assert "| 64 | not known | not known |" in text
    assert "unsure" not in text


class FakeServer:
    """What the README's client calls, answered from the repository, by the rules of its configuration."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def infer(self, model: str, inputs: list[Any]) -> Any:
        config = configs(self.repository)[model]
        [tensor] = inputs
        assert (tensor.name, f"TYPE_{tensor.datatype}") == ("images", type_name(config.input[0].data_type))
        assert list(tensor.data.shape) == tensor.shape
        assert tensor.shape[1:] == list(config.input[0].dims) and tensor.shape[0] <= config.max_batch_size
        session = onnxruntime.InferenceSession(
            self.repository / model / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in config.output]
        answers = dict(zip(names, session.run(names, {tensor.name: tensor.data}), strict=True))
        return types.SimpleNamespace(as_numpy=answers.__getitem__)


class FakeInput:
    def __init__(self, name: str, shape: list[int], datatype: str) -> None:
        self.name, self.shape, self.datatype = name, shape, datatype

    def set_data_from_numpy(self, data: np.ndarray) -> None:
        self.data = data


def test_the_readmes_client_gets_the_golden_answers(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    write_triton(bundle, repository)
    shutil.copyfile(bundle / "golden" / "00.png", repository / "photo.jpg")
    client = types.ModuleType("tritonclient.http")
    client.InferInput = FakeInput  # type: ignore[attr-defined]
    client.InferenceServerClient = lambda url: FakeServer(repository)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tritonclient.http", client)
    monkeypatch.chdir(repository)
    text = (repository / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    exec(code.replace("BUNDLE", str(bundle)), {})
    label, error = capsys.readouterr().out.split()
    assert label == Student.load(bundle).predict("photo.jpg").label
    assert float(error) < 1e-6


def test_a_folder_of_others_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    out.mkdir()
    made = write_triton(bundle, out)  # empty: taken
    assert isinstance(made, Repository)
    write_triton(bundle, out)  # ours, unchanged: made anew
    config = out / "student_fp32" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 4"))
    with pytest.raises(ExportError, match=r"student_fp32/config\.pbtxt: changed or added"):
        write_triton(bundle, out)
    write_triton(bundle, out, overwrite=True)
    assert "count: 1" in config.read_text()
    (out / "student_fp32" / "2").mkdir()
    (out / "student_fp32" / "2" / "model.onnx").write_bytes(b"newer")
    with pytest.raises(ExportError, match=r"student_fp32/2/model\.onnx: changed or added"):
        write_triton(bundle, out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="is not empty and holds no Triton repository made here"):
            write_triton(bundle, other, overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is a file"):
        write_triton(bundle, tmp_path / "file")
    for inside in (bundle, bundle / "triton", bundle.parent):
        with pytest.raises(ExportError, match="may not be inside"):
            write_triton(bundle, inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "models", "other"]


def test_damaged_bundles_and_bad_options(engines: Path, tmp_path: Path) -> None:
    for options in ({"device": "tpu"}, {"max_batch": 0}, {"queue_delay_us": -1}):
        with pytest.raises(ExportError, match=f"{next(iter(options))} .*expected"):
            TritonOptions(**options)  # type: ignore[arg-type]
    (engines / "student.fp32.plan.json").unlink()
    with pytest.raises(BundleError, match=r"student\.fp32\.plan\.json: missing"):
        write_triton(engines, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_schema_refuses_what_is_not_in_it() -> None:
    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "x" max_batch: 3', SCHEMA.ModelConfig())
