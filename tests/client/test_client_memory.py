"""Memory of the client: bounded whatever the size of a batch, flat when a student is loaded many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.client_memory import after_batches, after_reloads, apart, broken_promises
from tests.helpers.colour_bundle import RIGHT, SIZE_PX, colour_graph, make_colour_bundle, make_data, seal
from vl2v_deploy.client import Student
from vl2v_deploy.client.providers import CPU, CUDA
from vl2v_deploy.client.running import MOST_ON_CPU

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
MB = 1_000_000
FACTOR = 32  # images of 512 x 512 inside the graph, in float32
IMAGE_BYTES = (SIZE_PX * FACTOR) ** 2 * 3 * 4  # 3.1 MB


def hungry_graph() -> onnx.ModelProto:
    """The colours' graph, with the image enlarged inside it: little to compute, much memory an image."""
    model = colour_graph(RIGHT)
    model.graph.initializer.append(
        helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, FACTOR, FACTOR, 1.0])
    )
    resize = helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest")
    model.graph.node.insert(1, resize)
    model.graph.node[2].input[0] = "large"
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    made = make_colour_bundle(root / "bundle", make_data(root / "data"))
    onnx.save(hungry_graph(), made / "student.onnx")
    seal(made)
    return made


class CountingSession:
    """Answers with each image's number and remembers how many it was given at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = inputs["images"]
        self.batches.append(len(images))
        number = images[:, 0, 0, :2].astype(np.float32)
        return [number, images[:, 0, 0].astype(np.float32)]


@pytest.fixture
def counted(bundle: Path) -> tuple[Student, CountingSession]:
    student = Student.load(bundle, threads=1)
    student._session = session = CountingSession()
    return student, session


@pytest.mark.parametrize("count", [1, MOST_ON_CPU, MOST_ON_CPU + 1, 3 * MOST_ON_CPU + 5])
def test_the_session_runs_no_more_than_pays(counted: tuple[Student, CountingSession], count: int) -> None:
    student, session = counted
    images = np.zeros((count, SIZE_PX, SIZE_PX, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    logits, embedding = student.run(images)
    assert max(session.batches) <= MOST_ON_CPU
    assert sum(session.batches) == count
    assert logits[:, 0].tolist() == embedding[:, 0].tolist() == list(range(count))
    session.batches.clear()
    answers = student.predict_batch(iter(images), batch_size=512, logits=True)
    assert max(session.batches) <= MOST_ON_CPU
    assert [answer.logits[0] for answer in answers if answer.logits] == list(range(count))


def test_on_a_gpu_a_batch_is_run_as_it_is(counted: tuple[Student, CountingSession]) -> None:
    student, session = counted
    object.__setattr__(student.runtime, "provider", CUDA)
    student.predict_batch([np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)] * 100, batch_size=100)
    assert session.batches == [100]


def test_images_are_not_read_far_ahead(counted: tuple[Student, CountingSession]) -> None:
    student, _ = counted
    read: list[int] = []

    def images() -> object:
        for number in range(1000):
            read.append(number)
            yield np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)

    answers = student.stream(images(), batch_size=512, workers=2)
    next(answers)
    answers.close()
    assert len(read) <= 3 * MOST_ON_CPU


@needs_proc
def test_memory_after_batches_of_all_sizes(bundle: Path) -> None:
    """512 images at once would take 1.6 GB."""
    memory = apart(after_batches, str(bundle), "fp32", 6)
    held = memory["first_bytes"] - memory["loaded_bytes"]
    assert held > 5 * IMAGE_BYTES  # else this graph says nothing
    assert memory["first_bytes"] < memory["loaded_bytes"] + 4 * MOST_ON_CPU * IMAGE_BYTES
    assert memory["last_bytes"] <= 1.5 * memory["first_bytes"]


@needs_proc
def test_memory_stays_flat_when_a_student_is_loaded_again(bundle: Path) -> None:
    reloaded = apart(after_reloads, str(bundle), "fp32", 200)
    assert broken_promises({"first_bytes": 1, "last_bytes": 1}, reloaded) == []


def test_broken_promises_are_named() -> None:
    flat = [100 * MB] * 40
    sound = {"first_bytes": 100 * MB, "last_bytes": 150 * MB}
    assert broken_promises(sound, flat) == []
    [grown] = broken_promises(sound | {"last_bytes": 151 * MB}, flat)
    assert grown.startswith("memory grew from 100 MB after one batch to 151")
    [leaking] = broken_promises(sound, [MB * (100 + number) for number in range(40)])
    assert leaking.startswith("memory grew with reloads")


def test_the_cpu_session_keeps_no_plan_of_memory_for_each_size(bundle: Path) -> None:
    with Student.load(bundle, threads=1) as student:
        assert student.provider == CPU
        assert student._session.get_session_options().enable_mem_pattern is False
