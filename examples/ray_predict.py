"""Label the images of a folder, or of a column of Parquet files, on a Ray cluster; writes Parquet files.

python examples/ray_predict.py bundles/quickstart photos labels
python examples/ray_predict.py bundles/quickstart photos.parquet labels --image jpeg --id url --embeddings

The same command again goes on where it was ended, by whatever: each id is in the output once. SOURCE, OUT and
the folder OUT.checkpoint beside it are paths or URLs (s3://...) that all machines can reach; the bundle is a
path that all can read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import pyarrow.dataset
import ray
from pyarrow.fs import FileSelector, FileSystem
from ray.data.checkpoint import CheckpointConfig

from vl2v_deploy.client import open_bundle
from vl2v_deploy.errors import RunError, VL2VError
from vl2v_deploy.scale.ray import StudentActor


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="directory of a bundle")
    parser.add_argument("source", help="folder of images; with --image a Parquet file or a folder of them")
    parser.add_argument("out", help="folder of Parquet files")
    parser.add_argument("--image", help="column of SOURCE that holds encoded images")
    parser.add_argument("--id", help="column of SOURCE whose values are all different; needed with --image")
    parser.add_argument("--embeddings", action="store_true", help="write the student's embeddings as well")
    parser.add_argument("--precision", default="auto", help="the same everywhere; auto: each machine's best")
    parser.add_argument("--actors", type=int, help="most workers, of one processor each [all processors]")
    chosen = parser.parse_args()
    if (chosen.image is None) != (chosen.id is None):
        parser.error("--image and --id go together")
    return chosen


def located(place: str) -> str:
    """An absolute path, or the URL as it is: workers stand in other folders."""
    return place if "://" in place else str(Path(place).absolute())


def names_in(place: str) -> list[str]:
    """What is in a folder; nothing where there is none."""
    files, path = FileSystem.from_uri(place)
    return [info.path for info in files.get_file_info(FileSelector(path, allow_not_found=True))]


def checkpoint_of(chosen: argparse.Namespace, out: str) -> str:
    """The folder that says which ids are in OUT; of another bundle or other options it is another one.

    Raises RunError where OUT holds files that are not of this job.
    """
    answers = [open_bundle(chosen.bundle).sums, chosen.precision, chosen.embeddings, chosen.id]
    digest = hashlib.sha256(json.dumps(answers, sort_keys=True, default=dict).encode()).hexdigest()
    checkpoint = f"{out}.checkpoint/{digest[:16]}"
    if names_in(out) and not names_in(checkpoint):
        raise RunError(
            f"{out}: holds files of another bundle, other options or another job: name a new folder"
        )
    return checkpoint


def main(chosen: argparse.Namespace) -> str:
    """Runs the job, or what is left of it; what it came to, in a line."""
    source, out = located(chosen.source), located(chosen.out)
    checkpoint = checkpoint_of(chosen, out)
    ray.init(ignore_reinit_error=True)
    # Kept on success too: else the same command again would write all rows a second time.
    ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column=chosen.id or "path", checkpoint_path=checkpoint, delete_checkpoint_on_success=False
    )
    most = chosen.actors or int(ray.cluster_resources()["CPU"])
    if chosen.image:
        rows = ray.data.read_parquet(source, columns=[chosen.id, chosen.image])
    else:
        rows = ray.data.read_binary_files(source, include_paths=True)
    rows.map_batches(
        StudentActor,
        fn_constructor_args=[str(chosen.bundle.absolute())],
        fn_constructor_kwargs={
            "image": chosen.image or "bytes",
            "embeddings": chosen.embeddings,
            "precision": chosen.precision,
        },
        batch_format="pyarrow",
        batch_size=32,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
    ).write_parquet(out)
    files, path = FileSystem.from_uri(out)
    written = pyarrow.dataset.dataset(path, filesystem=files, format="parquet")
    bad = written.count_rows(filter=pyarrow.dataset.field("error").is_valid())
    return f"{out}: {written.count_rows()} rows; {bad} of images that cannot be used, see their error"


if __name__ == "__main__":
    try:
        print(main(options()))
    except VL2VError as error:
        sys.exit(f"Error: {error}")
