"""Images without labels, for the image term alone: where they are found, and that none is held out."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from vl2v_deploy.data.content import read_contents
from vl2v_deploy.data.domain_set import DomainSet, Sample, evaluation_samples
from vl2v_deploy.data.emojidg import emojidg_unlabelled_styles
from vl2v_deploy.data.files import Listing, image_files, is_hidden, is_image
from vl2v_deploy.data.looks import first_same_picture, looks_of
from vl2v_deploy.errors import BadImagesError, DataError
from vl2v_deploy.names import shown
from vl2v_deploy.recipe import BUILTIN_UNLABELLED, NO_TARGET, DataRecipe

UNLABELLED = -1  # the label of a sample that has none
NAMED = 5  # files that an error names


@dataclass(frozen=True)
class Unlabelled:
    """The images that `data.unlabelled` names, each content once.

    samples:    with the label UNLABELLED and, as domain, the recipe's entry that they came from
    duplicates: files left out because another one has the same bytes
    skipped:    files left out because they cannot be used
    unused:     files in the folders that are no images
    """

    samples: tuple[Sample, ...] = ()
    duplicates: int = 0
    skipped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the images' bytes, in their order; empty of none."""
        contents = "\n".join(sample.sha256 for sample in self.samples)
        return hashlib.sha256(contents.encode()).hexdigest() if contents else ""

    def counts(self) -> dict[str, int]:
        """How many images came from each entry of the recipe."""
        found: dict[str, int] = {}
        for sample in self.samples:
            found[sample.domain] = found.get(sample.domain, 0) + 1
        return found


def load_unlabelled(data: DataRecipe, *, skip_bad: bool = False) -> Unlabelled:
    """The images of `data.unlabelled`, each decoded once to prove that it can be.

    skip_bad: go on without those that do not decode

    Raises DataError for an entry that names no image; BadImagesError for images that do not decode.
    """
    found = {entry: _files(entry, data.target) for entry in data.unlabelled}
    files = [(path, entry) for entry, listing in found.items() for path in listing.images]
    contents = read_contents([path for path, _ in files])
    bad = [(shown(path), c.problem) for (path, _), c in zip(files, contents, strict=True) if c.problem]
    if bad and not skip_bad:
        raise BadImagesError(bad)
    samples: dict[str, Sample] = {}
    usable = [(file, c.sha256) for file, c in zip(files, contents, strict=True) if not c.problem]
    for (path, entry), sha256 in usable:
        samples.setdefault(sha256, Sample(path, entry, UNLABELLED, str(path), "train", sha256))
    skipped = tuple(path for path, _ in bad)
    unused = tuple(shown(path) for listing in found.values() for path in listing.unused)
    return Unlabelled(tuple(samples.values()), len(usable) - len(samples), skipped, unused)


def split_held_out(unlabelled: Unlabelled, share: float) -> tuple[Unlabelled, Unlabelled]:
    """What is trained on, and what is held out from training, to measure agreement with the teacher.

    The bytes of an image decide: it stays on its side whatever other images there are.

    share: of the images to hold out, in [0, 1)

    Raises DataError when nothing is left to train on.
    """
    held = [_is_held_out(sample.sha256, share) for sample in unlabelled.samples]
    if held and all(held):
        raise DataError(
            f"data.unlabelled_held_out: {share:g} holds out all {len(held)} images of data.unlabelled; name "
            "more of them, or a smaller share"
        )
    kept, out = (
        tuple(sample for sample, is_out in zip(unlabelled.samples, held, strict=True) if is_out is wanted)
        for wanted in (False, True)
    )
    return replace(unlabelled, samples=kept), Unlabelled(out)


def _is_held_out(sha256: str, share: float) -> bool:
    """By the hash's first digits: whoever chose the images by its last ones chose independently of this."""
    return int(sha256[:16], 16) < share * 16**16


def require_not_held_out(unlabelled: Sequence[Sample], domain_set: DomainSet, target: str) -> int:
    """How many of the images are of the target domain: a run that trains on them is adapted to it.

    Not held out means: from measuring accuracy and from selection, whether they are trained on or not.

    An image is the same as another if their bytes are, or if they show the same picture (see data.looks). Of
    the target domain is what lies in its folder, and what is the same as an image in it.

    Raises DataError that names those that are test images of any domain, or val images of a source domain.
    """
    if not unlabelled:
        return 0
    held_out: dict[str, tuple[Sample, str]] = {}
    for domain in domain_set.domains:
        for sample in evaluation_samples(domain_set, domain, target):
            held_out.setdefault(sample.sha256, (sample, f"a test image of {domain}"))
    for sample in domain_set.select(domain_set.sources(target), "val"):
        held_out.setdefault(sample.sha256, (sample, f"a val image of {sample.domain}"))
    same = _same_images(unlabelled, [sample for sample, _ in held_out.values()])
    problems = [
        f"{shown(sample.path)} is the same as {shown(other.path)}, {held_out[other.sha256][1]}"
        for sample, other in zip(unlabelled, same, strict=True)
        if other is not None
    ]
    if problems:
        more = f"\n... and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise DataError(
            f"data.unlabelled: {len(problems)} file(s) are held-out images, not to be trained on:\n"
            + "\n".join(problems[:NAMED])
            + more
            + "\nLeave them out: name folders, a glob or a manifest without them"
        )
    if target == NO_TARGET:
        return 0
    of_target = [s for s in domain_set.samples if s.domain == target and s.sha256 not in held_out]
    inside = [False] * len(unlabelled)
    if not domain_set.listed:
        folder = domain_set.folder(target).resolve()
        inside = [sample.path.resolve().is_relative_to(folder) for sample in unlabelled]
    alike = _same_images(unlabelled, of_target)
    return sum(is_in or other is not None for is_in, other in zip(inside, alike, strict=True))


def _same_images(samples: Sequence[Sample], others: Iterable[Sample]) -> list[Sample | None]:
    """For each sample, one of the others that shows the same picture; None where none does."""
    known = list({other.sha256: other for other in others}.values())
    looks = looks_of({sample.sha256: sample.path for sample in (*samples, *known)})
    places = first_same_picture([looks[s.sha256] for s in samples], [looks[s.sha256] for s in known])
    return [None if place is None else known[place] for place in places]


def _files(entry: str, target: str) -> Listing:
    """The image files that one entry names, sorted where it gives no order, and the files that are none."""
    path = Path(entry)
    if entry == BUILTIN_UNLABELLED:
        styles = emojidg_unlabelled_styles(target)
        found = Listing([image for style in styles for image in sorted(image_files(style).images)], [])
    elif path.is_dir():
        images, unused = image_files(path)
        found = Listing(sorted(images), unused)
    elif path.is_file():
        found = Listing(list(_listed(path)), [])
    elif _has_mark(entry):
        named = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        # A hidden folder is looked into only where the glob names it before its first mark.
        fixed = len([*takewhile(lambda part: not _has_mark(part), path.parts)])
        files = [file for file in named if file.is_file() and not any(map(is_hidden, file.parts[fixed:]))]
        images = [file for file in files if is_image(file)]
        found = Listing(images, [file for file in files if file not in set(images)])
    else:
        raise DataError(f"data.unlabelled: {entry}: no such folder or manifest")
    if not found.images:
        raise DataError(f"data.unlabelled: {entry}: names no image that the client reads")
    return found


def _has_mark(text: str) -> bool:
    """Whether a glob's marks are in it."""
    return any(mark in text for mark in "*?[")


def _listed(manifest: Path) -> Iterator[Path]:
    """The files of a manifest: a CSV with the column image, or text with one path in a line."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            if manifest.suffix.lower() == ".csv":
                rows = csv.DictReader(file)
                if "image" not in (rows.fieldnames or ()):
                    raise DataError(f"data.unlabelled: {manifest}: expected a header with the column image")
                names = [row["image"] for row in rows]
            else:
                names = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.unlabelled: {manifest}: cannot be read as a manifest ({error}); expected text with one "
            "path in a line, or a CSV with the column image"
        ) from error
    yield from (manifest.parent / name.strip() for name in names if name and name.strip())
