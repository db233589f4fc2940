"""Images that are packed or laid out otherwise -> a folder with a manifest of them, for `data.manifest`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from vl2v_deploy.bars import tracked
from vl2v_deploy.data.files import IMAGE_SUFFIXES, folders_in, image_files
from vl2v_deploy.data.layout import split_folders
from vl2v_deploy.data.manifest_file import IMAGE_COLUMNS, MANIFEST_SUFFIXES, ManifestRow, table_rows
from vl2v_deploy.data.packed.shards import NO_SUFFIX, TABLES, Sample, Shard, described, shards_in
from vl2v_deploy.data.packed.tables import holds_images, samples_of_table
from vl2v_deploy.data.packed.tars import samples_of_tar
from vl2v_deploy.data.splits import SIDE_OF_FOLDER, Split
from vl2v_deploy.errors import DataError
from vl2v_deploy.folders import whole_folder
from vl2v_deploy.names import command, listed, shown

MANIFEST = "manifest.jsonl"
_EXPANSION = 20  # images hardly compress: a table that becomes larger than this is no honest one
_EVERY: dict[Split, int] = {"val": 10, "test": 5}  # one training image of so many, for a side that lacks


class Converted(NamedTuple):
    """What was written.

    manifest: lists every image
    said:     what a user is told of it
    """

    manifest: Path
    said: list[str]


def metadata_file(folder: Path) -> Path | None:
    """The `metadata` file of an imagefolder of `datasets` that has file names and labels, or None."""
    for suffix in MANIFEST_SUFFIXES:
        file = folder / f"metadata{suffix}"
        if file.is_file():
            with suppress(DataError):  # without labels it is no manifest
                first = next(table_rows(file), (0, {}))[1]
                if "label" in first and not first.keys().isdisjoint(IMAGE_COLUMNS):
                    return file
    return None


def conversion_hint(path: Path) -> str | None:
    """What to do about a folder or file of packed images; None = it is none."""
    if path.is_file() and path.suffix.lower() == ".parquet" and not holds_images(path):
        return None
    if not (shards := shards_in(path)):
        return None
    what = command("init", path, "--convert", "FOLDER")
    return f"{shown(path)}: {described(shards)}: unpack them into a new FOLDER with: {what}"


def convert(path: Path, out: Path) -> Converted:
    """Write a folder with a manifest of the images of tars, of tables, or of folders train, val and test.

    Packed images are copied into it, under names of our own; images that are files stay where they are.

    Raises DataError when `out` exists, there is nothing to convert, or a sample has no label or is not sound.
    """
    if out.exists():
        raise DataError(f"{shown(out)}: exists already: --convert writes a new folder")
    if not path.exists():
        raise DataError(f"{shown(path)}: no such file or folder")
    unread: Counter[str] = Counter()
    shards = shards_in(path)
    sides = [] if shards or not path.is_dir() else split_folders(path)
    if not shards and not sides:
        raise DataError(
            f"{shown(path)}: holds no webdataset tars, no Parquet or Arrow files of `datasets` and no "
            "folders train, val and test: there is nothing to convert; leave --convert out"
        )
    with whole_folder(out) as partial:
        rows = [*_unpacked(shards, partial, unread)] if shards else [*_of_sides(path, sides, unread)]
        not_read = ", ".join(f"{count} {shown(kind)}" for kind, count in unread.most_common(20))
        if not rows:
            what = f"{described(shards)}: no image" if shards else f"no image in {listed(sides)}/CLASS"
            raise DataError(f"{shown(path)}: {what}; files that are not read: {not_read or 'none'}")
        said = [_domains_said(rows, shards), *_completed(rows)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (partial / MANIFEST).write_text(text, encoding="ascii")
    what = described(shards) if shards else f"folders {listed(sides)}"
    said.insert(0, f"{shown(path)}: {what} with {len(rows)} images, listed in {shown(out / MANIFEST)}.")
    if unread:
        said.append(f"Files that are not read: {not_read}.")
    if all(row["label"].isdecimal() for row in rows):
        said.append("The labels are numbers: give their names for the prompts in data.class_names.")
    return Converted(out / MANIFEST, said)


def _unpacked(shards: list[Shard], out: Path, unread: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of packed images, each of which is written to a file as it comes."""
    domains = {shard.domain for shard in shards}
    by_domain = len(domains) > 1 and None not in domains
    by_side = all(shard.side for shard in shards)
    for shard in tracked(shards, "unpacking", total=len(shards)):
        folder = PurePosixPath("images", shard.name)
        (out / folder).mkdir(parents=True)
        of_name = {"domain": shard.domain if by_domain else None, "split": shard.side if by_side else None}
        allowed = _EXPANSION * shard.path.stat().st_size
        for number, sample in enumerate(_samples(shard.path, unread), start=1):
            allowed -= len(sample.image)
            if allowed < 0:
                raise DataError(
                    f"{shown(shard.path)}: its images are more than {_EXPANSION} times its size: refused"
                )
            suffix = PurePosixPath(sample.named).suffix.lower()
            image = folder / f"{number:07}{suffix if suffix in IMAGE_SUFFIXES else ''}"
            yield _row(sample.place, {**of_name, **sample.says, "image": image.as_posix()})
            (out / image).write_bytes(sample.image)


def _samples(path: Path, unread: Counter[str]) -> Iterable[Sample]:
    return samples_of_table(path) if path.suffix.lower() in TABLES else samples_of_tar(path, unread)


def _of_sides(root: Path, sides: list[str], unread: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of side/class/image, or of side/metadata.csv."""
    for side in sides:
        folder, split = root.resolve() / side, SIDE_OF_FOLDER[side.lower()]
        if file := metadata_file(folder):
            for line, tree in table_rows(file):
                name = next((tree[column] for column in IMAGE_COLUMNS if tree.get(column)), None)
                place = f"{file}: line {line}"
                yield _row(place, {**tree, "image": name and str(folder / str(name)), "split": split})
            continue
        for label in folders_in(folder):
            listing = image_files(folder / label)
            unread.update(file.suffix or NO_SUFFIX for file in listing.unused)
            for image in listing.images:
                yield _row(str(image), {"image": str(image), "label": label, "split": split})


def _row(place: str, tree: dict[str, Any]) -> dict[str, Any]:
    """A row of the manifest, as a manifest is read."""
    side = tree.get("split")
    if isinstance(side, str):
        tree["split"] = SIDE_OF_FOLDER.get(side.lower(), side)
    try:
        return ManifestRow.model_validate(tree).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        what = "is missing" if first["input"] in (None, "") or first["type"] == "missing" else first["msg"]
        raise DataError(f"{shown(place)}: {first['loc'][0]}: {what}") from error


def _domains_said(rows: list[dict[str, Any]], shards: list[Shard]) -> str:
    """Where the domains come from."""
    found = sorted({row["domain"] for row in rows if "domain" in row})
    if not found:
        return (
            "No domains: neither a column or JSON field domain, nor files or folders called by their domain."
        )
    named = {shard.domain for shard in shards} == set(found)
    how = "the names of the files" if named else "the column or field domain"
    return f"Domains by {how}: {listed(found, 20)}."


def _completed(rows: list[dict[str, Any]]) -> list[str]:
    """Give the sides of the split that lack a share of the training images, in place; what was done."""
    have = {row.get("split", "") for row in rows}
    lacking = [side for side in get_args(Split) if side not in have]
    if "" in have or not lacking:
        return []
    if "train" not in have or len(lacking) > 1:
        for row in rows:
            del row["split"]
        return [f"Of train, val and test there is only {listed(sorted(have))}: images are split by seed."]
    [side] = lacking
    count: Counter[tuple[Any, Any]] = Counter()
    for row in rows:
        if row["split"] == "train":
            of = row.get("domain"), row["label"]
            count[of] += 1
            if count[of] % _EVERY[side] == 2:
                row["split"] = side
    return [f"There is no side {side}: one in {_EVERY[side]} training images of each class is put there."]
