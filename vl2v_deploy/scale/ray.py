"""The student, and a teacher, as stateful workers for Ray Data's `map_batches`: tables in, tables out.

Rows keep their other columns; the image column, the largest, is replaced by the answers. An image that cannot
be used is a row with its `error`, and null in place of an answer: it stops nothing. A column of images is
either of encoded bytes, of uint8 arrays (H, W, 3) or (H, W), or of text: paths that every worker can read.

Tables are Arrow's (`batch_format="pyarrow"`), not NumPy's: a column of which a batch has no answer keeps its
type, and columns with nulls pass through unchanged. Nothing here imports Ray, so whatever hands out Arrow
tables or pandas frames can use the same workers; `examples/spark_predict.py` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vl2v_deploy.client import Limits, Prediction, Student
from vl2v_deploy.client.images import DEFAULT_LIMITS, TRUSTED, open_image, read_encoded
from vl2v_deploy.client.providers import Providers
from vl2v_deploy.client.session import AUTO
from vl2v_deploy.errors import DataError, ImageError, MissingExtra, RecipeError, did_you_mean

try:
    import pyarrow as pa
except ImportError as missing:
    raise MissingExtra("pyarrow", "ray") from missing

if TYPE_CHECKING:  # torch comes with a teacher alone
    from vl2v_deploy.recipe import Recipe

IMAGE = "bytes"  # what ray.data.read_binary_files calls its column
EMBEDDING = pa.list_(pa.float32())


class StudentActor:
    """The student of a bundle in one worker. Adds label, probability, abstained, precision, error.

    bundle:     directory or zip file; every worker must be able to read it
    image:      name of the column of images
    embeddings: whether to add `embedding`, D numbers, as well
    precision:  as of Student.load. auto chooses by the worker's processor, so that unlike machines may answer
                in unlike precisions: `precision` says in which. Name one to have the same everywhere
    providers:  as of Student.load
    threads:    of an operator; one, as an engine starts a worker for each processor it may use
    limits:     on what is decoded; for images from strangers set decode_deadline_s, as a decoder that crashes
                would end the worker, and engines start it again at the same image

    Raises what Student.load raises; when called, DataError for a table without that column, or with a column
    that has the name of an answer.

    >>> import ray  # doctest: +SKIP
    >>> ray.data.read_binary_files("photos", include_paths=True).map_batches(  # doctest: +SKIP
    ...     StudentActor,
    ...     fn_constructor_args=["bundles/quickstart"],
    ...     batch_format="pyarrow",
    ...     batch_size=32,
    ...     num_cpus=1,
    ...     compute=ray.data.ActorPoolStrategy(min_size=1, max_size=16),
    ... ).write_parquet("labels")
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        image: str = IMAGE,
        embeddings: bool = False,
        precision: str = AUTO,
        providers: Providers = None,
        threads: int | None = 1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.student = Student.load(
            bundle, precision=precision, providers=providers, threads=threads, limits=limits
        )
        self.image, self.embeddings = image, embeddings

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows with the student's answers, in their order."""
        decoded = [self._decoded(image) for image in _images(batch, self.image)]
        good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
        rows = zip(*self.student.run(np.stack(good)), strict=True) if good else iter(())
        answers: list[Prediction | None] = []
        embeddings: list[Any] = []  # float32 (D,) each, None of a bad image
        for pixels in decoded:
            logits, embedding = (None, None) if isinstance(pixels, ImageError) else next(rows)
            answers.append(None if logits is None else self.student.prediction_from_logits(logits, top=0))
            embeddings.append(embedding)
        columns = {
            "label": pa.array([answer and answer.label for answer in answers], pa.string()),
            "probability": pa.array([answer and answer.probability for answer in answers], pa.float64()),
            "abstained": pa.array([answer and answer.abstained for answer in answers], pa.bool_()),
            "precision": pa.array([answer and self.student.precision for answer in answers], pa.string()),
        }
        if self.embeddings:
            columns["embedding"] = pa.array(embeddings, EMBEDDING)
        return _answered(batch, self.image, columns | {"error": _errors(decoded)})

    def _decoded(self, image: Any) -> Any:
        """uint8 (S, S, 3), or why there is none."""
        try:
            return self.student.pixels(image)
        except ImageError as error:
            return error


class TeacherActor:
    """The teacher of a recipe in one worker, asked about each image once. Adds sha256, embedding, error.

    Embeddings are kept in the embedding store, where `distill` finds them, by the hash of the file's bytes;
    what it holds is not asked again, and a vendor's budget holds. Workers share the store through
    $VL2V_DEPLOY_CACHE: on several machines it must be a shared file system that has file locks. A vendor
    needs one worker only, as its teacher sends requests at once by itself.

    recipe: a recipe, or its file, which every worker must then be able to read
    image:  name of the column of images: bytes or paths; arrays have no bytes that could be recognised
    bill:   what queries are booked on; None = the name of the recipe's file

    Raises RecipeError for a recipe whose teacher cannot be asked here, and what load_teacher raises; when
    called, DataError as StudentActor does, ModelError and BudgetError as the teacher does: what was answered
    by then is kept, and the same job goes on from there.
    """

    def __init__(self, recipe: Recipe | Path | str, *, image: str = IMAGE, bill: str | None = None) -> None:
        from vl2v_deploy.models.device import limit_torch_threads
        from vl2v_deploy.models.store.store import EmbeddingStore, store_root
        from vl2v_deploy.models.teacher.load import load_teacher
        from vl2v_deploy.recipe import PrecomputedRecipe, Recipe, load_recipe

        loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
        if isinstance(loaded.teacher, PrecomputedRecipe):
            raise RecipeError("teacher.kind: precomputed: its embeddings are in tables already; join those")
        if loaded.normalization != "own":
            raise RecipeError(
                f"normalization: {loaded.normalization}: the teacher sees the student's tensors, which only "
                "a run makes; set normalization: own"
            )
        limit_torch_threads()
        self.store = EmbeddingStore(store_root(), load_teacher(loaded.teacher, loaded.device))
        self.image = image
        self.bill = bill or ("scale" if isinstance(recipe, Recipe) else Path(recipe).stem)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows with the teacher's embeddings, in their order."""
        found = [_encoded(image) for image in _images(batch, self.image)]
        try:
            rows = self._embedded(found)
        except ImageError:  # rare: only now is it worth decoding each once more, to see which it is
            found = [_usable(encoded) for encoded in found]
            rows = self._embedded(found)
        columns = {
            "sha256": pa.array([_sha256(encoded) for encoded in found], pa.string()),
            "embedding": pa.array(rows, EMBEDDING),
            "error": _errors(found),
        }
        return _answered(batch, self.image, columns)

    def _embedded(self, found: Sequence[bytes | ImageError]) -> list[Any]:
        """float32 (D,) of each image that can be used; None of the others."""
        from vl2v_deploy.models.ledger.booking import billed_to

        good = [encoded for encoded in found if not isinstance(encoded, ImageError)]
        with billed_to(self.bill):
            rows = iter(self.store.embed(good, description="").numpy())
        return [None if isinstance(encoded, ImageError) else next(rows) for encoded in found]


def _images(batch: pa.Table, column: str) -> Iterator[Any]:
    """Each image of the column: bytes, text, an array, or None."""
    if not isinstance(batch, pa.Table):
        raise DataError(
            f"expected an Arrow table, got {type(batch).__name__}: pass batch_format='pyarrow' to map_batches"
        )
    if column not in batch.column_names:
        raise DataError(
            f"no column {column!r}: the rows have {', '.join(batch.column_names)}"
            f"{did_you_mean(column, batch.column_names)}"
        )
    for scalar in batch.column(column):
        is_array = isinstance(scalar, pa.ExtensionScalar) and scalar.is_valid
        yield scalar.to_numpy() if is_array else scalar.as_py()


def _answered(batch: pa.Table, image: str, columns: Mapping[str, pa.Array]) -> pa.Table:
    """The rows without their image and with the new columns."""
    kept = {name: batch.column(name) for name in batch.column_names if name != image}
    if taken := sorted(kept.keys() & columns.keys()):
        raise DataError(
            f"column {taken[0]!r}: the rows have one of that name already, where an answer goes: rename it "
            "with rename_columns, or leave it out with drop_columns"
        )
    return pa.table(kept | dict(columns))


def _encoded(image: Any) -> bytes | ImageError:
    """The bytes of an image file, or why there are none."""
    try:
        match image:
            case bytes():
                return image
            case str():
                return read_encoded(image, TRUSTED)
        return ImageError(f"expected encoded bytes or a path, got {type(image).__name__}")
    except ImageError as error:
        return error


def _usable(encoded: bytes | ImageError) -> bytes | ImageError:
    """The bytes, if a teacher can be shown them; else why not."""
    if isinstance(encoded, ImageError):
        return encoded
    try:
        open_image(encoded, TRUSTED)
    except ImageError as error:
        return error
    return encoded


def _sha256(encoded: bytes | ImageError) -> str | None:
    return None if isinstance(encoded, ImageError) else hashlib.sha256(encoded).hexdigest()


def _errors(found: Sequence[Any]) -> pa.Array:
    """Why there is no answer, one line each; null where there is one."""
    return pa.array([str(one) if isinstance(one, ImageError) else None for one in found], pa.string())
