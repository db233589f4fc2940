"""Jobs on a real Ray, run by .venv-ray: python -m tests.scale.ray_jobs JOB JSON

Ray is imported inside, so that the environment of the tests, which has none, can import this file too.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from vl2v_deploy.errors import RunError
from vl2v_deploy.scale.ray import StudentActor

ROOT = Path(__file__).parents[2]
LEAST_STORE = 80 * 2**20  # bytes; Ray refuses less than 75 MiB


class Watched:
    """The student's worker that writes down where it answers which rows, and takes its time."""

    def __init__(self, bundle: str, log: str, seconds: float, **options: Any) -> None:
        self.student, self.log, self.seconds = StudentActor(bundle, **options), Path(log), seconds

    def __call__(self, batch: Any) -> Any:
        import ray

        answered = self.student(batch)
        time.sleep(self.seconds)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        node = ray.get_runtime_context().get_node_id()
        with self.log.open("a") as file:
            file.write(json.dumps({"node": node, "rows": batch.num_rows, "bytes": resident}) + "\n")
        return answered


def script(**options: Any) -> str:
    """What examples/ray_predict.py says, run with these options."""
    asked = {"image": None, "id": None, "embeddings": False, "precision": "auto", "actors": 1}
    run = runpy.run_path(str(ROOT / "examples/ray_predict.py"))["main"]
    return str(run(Namespace(**asked | options | {"bundle": Path(options["bundle"])})))


def label_twice(bundle: str, photos: str, out: str) -> dict[str, Any]:
    """The example, the same again, and with another option."""
    import ray

    ray.init(num_cpus=4, object_store_memory=LEAST_STORE, include_dashboard=False)
    said = [script(bundle=bundle, source=photos, out=out) for _ in range(2)]
    try:
        script(bundle=bundle, source=photos, out=out, embeddings=True)
    except RunError as error:
        said.append(str(error))
    return {"said": said}


def label_other_sources(bundle: str, photos: str, out: str) -> dict[str, Any]:
    """The example from Parquet, and the student of arrays."""
    import ray

    ray.init(num_cpus=4, object_store_memory=LEAST_STORE, include_dashboard=False)
    files = ray.data.read_binary_files(photos, include_paths=True, override_num_blocks=4)
    files.write_parquet(f"{out}/parquet")
    columns = {"image": "bytes", "id": "path", "embeddings": True}
    said = script(bundle=bundle, source=f"{out}/parquet", out=f"{out}/labels", **columns)
    ray.data.DataContext.get_current().checkpoint_config = None
    for name, ragged in (("arrays", False), ("ragged", True)):
        pictures = ray.data.range(6, override_num_blocks=2).map_batches(Arrays(ragged))
        pictures.map_batches(
            StudentActor,
            fn_constructor_args=[bundle],
            fn_constructor_kwargs={"image": "pixels"},
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
        ).write_parquet(f"{out}/{name}")
    return {"said": said}


def run_programs(folder: str, programs: list[str]) -> dict[str, Any]:
    """Programs of a document, one after another, where the files that they name are."""
    import ray

    os.chdir(folder)
    ray.init(num_cpus=4, object_store_memory=LEAST_STORE, include_dashboard=False)
    for program in programs:
        exec(compile(program, "a document", "exec"), {})
    return {}


class Arrays:
    """Adds `pixels`: green where the id is even, red where it is odd; of unlike sizes if ragged."""

    def __init__(self, ragged: bool, size: int = 20) -> None:
        self.ragged, self.size = ragged, size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pixels = np.empty(len(batch["id"]), object)
        for row, number in enumerate(batch["id"]):
            side = self.size + (number if self.ragged else 0)
            pixels[row] = np.full(
                (side, self.size, 3), (210, 30, 20) if number % 2 else (20, 200, 30), np.uint8
            )
        return batch | {"pixels": pixels if self.ragged else np.stack(pixels)}


def lose_a_node(bundle: str, photos: str, out: str, log: str) -> dict[str, Any]:
    """Two nodes with a worker each; one is lost, without a word, when both have answered."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": LEAST_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2} | small)
    nodes = [cluster.add_node(num_cpus=1, resources={"student": 1}, **small) for _ in range(2)]
    try:
        ray.init(address=cluster.address)
        answered = ray.data.read_binary_files(photos, include_paths=True, override_num_blocks=40).map_batches(
            Watched,
            fn_constructor_args=[bundle, log, 0.5],
            batch_format="pyarrow",
            num_cpus=1,
            resources={"student": 1},
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        job = threading.Thread(target=answered.write_parquet, args=[out])
        job.start()
        while len({line["node"] for line in written(log)}) < 2:
            assert job.is_alive(), "the job ended before both nodes had answered"
            time.sleep(0.05)
        before = len(written(log))
        cluster.remove_node(nodes[1], allow_graceful=False)
        job.join()
        return {"lost": nodes[1].node_id, "before": before}
    finally:
        ray.shutdown()
        cluster.shutdown()


def keep_memory_flat(bundle: str, out: str, log: str, spilled: str, images: int, size: int) -> dict[str, Any]:
    """Arrays of several times the object store through one worker; whether some were seen spilled to disk."""
    import ray

    small = {"object_store_memory": LEAST_STORE, "include_dashboard": False}
    ray.init(num_cpus=3, object_spilling_directory=spilled, **small)
    # The default of 128 MiB a block is more than this store.
    ray.data.DataContext.get_current().target_max_block_size = 2 * 2**20
    # Another share of a processor than the student's, or Ray would make the arrays in the student's process.
    rows = ray.data.range(images, override_num_blocks=images // 50)
    job = rows.map_batches(Arrays(False, size), num_cpus=0.5).map_batches(
        Watched,
        fn_constructor_args=[bundle, log, 0.0],
        fn_constructor_kwargs={"image": "pixels"},
        batch_format="pyarrow",
        batch_size=32,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    writing = threading.Thread(target=job.write_parquet, args=[out])
    writing.start()
    seen: set[str] = set()
    while writing.is_alive():
        seen |= {path.name for path in Path(spilled).rglob("*") if path.is_file()}
        time.sleep(0.05)
    return {"spilled": sorted(seen)}


def written(log: str) -> list[dict[str, Any]]:
    path = Path(log)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    known = (label_twice, label_other_sources, run_programs, lose_a_node, keep_memory_flat)
    jobs = {job.__name__: job for job in known}
    print(json.dumps(jobs[sys.argv[1]](**json.loads(sys.argv[2]))))
