"""Images that the teacher answered, kept with its answers: the next training set, already paid for.

    FOLDER/2026-11-28/<sha256>.png      an image as it came, named by the SHA-256 of its bytes
    FOLDER/2026-11-28/answers.jsonl     a line for each answer (see `KeptAnswer`)

`vl2v-deploy teacher import FOLDER` puts the embeddings into the embedding store.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
from PIL import Image

from vl2v_deploy.client.cascade.budget import utc_day
from vl2v_deploy.client.images import ImageSource, open_image
from vl2v_deploy.client.preprocess import to_rgb
from vl2v_deploy.client.typed_json import LEFT_OUT, to_json
from vl2v_deploy.errors import VL2VError, one_line

ANSWERS = "answers.jsonl"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
_SUFFIXES |= {"TIFF": ".tif", "PPM": ".ppm", "AVIF": ".avif", "JPEG2000": ".jp2"}


@dataclass(frozen=True)
class KeptLabel:
    """probabilities: by class, of those above 0.0001."""

    label: str
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class KeptAnswer:
    """A line of answers.jsonl.

    at:        in UTC
    image:     its file, beside this one; sha256: of its bytes
    reason:    unsure or audit
    teacher:   at the policy's temperature
    identity:  of the teacher, where it names itself; version: of its model, where the answer names it
    embedding: the teacher's, of the image: base64 of D little-endian float32
    """

    at: str
    request_id: str
    image: str
    sha256: str
    reason: str
    student: KeptLabel
    teacher: KeptLabel
    identity: str | None = field(default=None, metadata=LEFT_OUT)
    version: str | None = field(default=None, metadata=LEFT_OUT)
    embedding: str | None = field(default=None, metadata=LEFT_OUT)


def text_of_embedding(embedding: npt.NDArray[np.float32]) -> str:
    """base64 of little-endian float32, as `embedding_from_text` reads it; of a matrix, row after row."""
    return base64.b64encode(np.asarray(embedding, "<f4").tobytes()).decode()


def embedding_from_text(text: str) -> npt.NDArray[np.float32]:
    """float32, flat; ValueError where the text is no such thing."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)


class KeptFolder:
    """A folder of answered images, within limits. Threads may share it; so may processes, each with its own.

    folder:    made when the first image comes
    max_bytes: of all files in it; the oldest day goes to make room, but never today's: then what comes is
               not kept, and counted. The folder is measured when a day begins and when it seems full: in
               between, several processes can pass the limit together
    max_days:  days that stay, today among them
    today:     the day, which is UTC's

    not_kept:  images that were not kept, for want of room or because the disk failed
    problem:   why the last of them was not, in words

    Only folders named as days are ever removed.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        max_bytes: int = 1_000_000_000,
        max_days: int = 30,
        today: Callable[[], str] = utc_day,
    ) -> None:
        if max_bytes < 1 or max_days < 1:
            raise ValueError(f"max_bytes {max_bytes}, max_days {max_days}: expected at least 1 each")
        self.folder, self.max_bytes, self.max_days, self._today = Path(folder), max_bytes, max_days, today
        self._lock = Lock()
        self._day, self._bytes = "", 0
        self.not_kept, self.problem = 0, ""

    def keep(self, image: ImageSource, line: Callable[[str, str, str], KeptAnswer]) -> None:
        """Puts an image and its line on disk, or counts why not; raises nothing.

        line: of time, name of the image's file and its SHA-256
        """
        try:
            content, suffix = _encoded(image)
            sha256 = hashlib.sha256(content).hexdigest()
            name = f"{sha256}{suffix}"
            at = datetime.now(UTC).isoformat(timespec="seconds")
            text = json.dumps(to_json(line(at, name, sha256)), ensure_ascii=False) + "\n"
            with self._lock:
                problem = self._written(name, content, text.encode())
        except (OSError, VL2VError, ValueError) as error:  # the answer itself is as good as ever
            problem = one_line(error)
        if problem:
            with self._lock:
                self.not_kept, self.problem = self.not_kept + 1, problem

    def _written(self, name: str, content: bytes, line: bytes) -> str:
        """Why it was not written; "" where it was."""
        today = self._today()
        if today != self._day:
            self._remove_old(today)
            self._day, self._bytes = today, _size(self.folder)
        file = self.folder / today / name
        needed = len(line) + (0 if file.exists() else len(content))
        if self._bytes + needed > self.max_bytes:
            self._make_room(needed, today)
        if self._bytes + needed > self.max_bytes:
            return f"{self.folder}: holds {self._bytes:,} bytes of at most {self.max_bytes:,}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            unfinished = file.with_name(f".{name}.{os.getpid()}")
            unfinished.write_bytes(content)
            unfinished.replace(file)
        with (file.parent / ANSWERS).open("ab", buffering=0) as answers:
            answers.write(line)  # one write in append mode: lines of several processes do not mix
        self._bytes += needed
        return ""

    def _remove_old(self, today: str) -> None:
        oldest = (date.fromisoformat(today) - timedelta(days=self.max_days - 1)).isoformat()
        for day in _days(self.folder):
            if day.name < oldest:
                _remove(day)

    def _make_room(self, needed: int, today: str) -> None:
        self._bytes = _size(self.folder)  # other processes write too
        for day in _days(self.folder):
            if day.name >= today or self._bytes + needed <= self.max_bytes:
                return
            self._bytes -= _size(day)
            _remove(day)


def _encoded(image: ImageSource) -> tuple[bytes, str]:
    """An image's file and its suffix: files and bytes as they came; pixels as a PNG, upright and RGB."""
    if isinstance(image, str | Path):
        image = Path(image).read_bytes()
    if not isinstance(image, bytes):
        file = io.BytesIO()
        to_rgb(open_image(image)).save(file, "PNG")
        return file.getvalue(), ".png"
    with Image.open(io.BytesIO(image)) as opened:  # the header; the student has decoded the rest
        return image, _SUFFIXES.get(opened.format or "", ".img")


def _days(folder: Path) -> list[Path]:
    """The folders of days, the oldest first."""
    return sorted(path for path in folder.glob("*") if _DAY.fullmatch(path.name) and path.is_dir())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(day: Path) -> None:
    for path in day.iterdir():
        path.unlink()
    day.rmdir()
