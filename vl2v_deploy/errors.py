"""Every error that a user of vl2v_deploy can cause or must act on.

VL2VError
├── RecipeError(ValueError)        a recipe file, a field of it, or an override
├── DataError(ValueError)          a data folder: domains, classes, groups
│   └── BadImagesError             images that cannot be used, each with its path
├── ModelError(ValueError)         teacher or student: unknown name, weights that do not fit
│   └── VendorError                what a vendor's server answered, or that it did not
├── BudgetError(RuntimeError)      what may be spent on a teacher is spent; exit code 3
├── RunError(ValueError)           a run directory: missing, unfinished, damaged
├── LostProcessError(RuntimeError) another of the processes that torchrun started for a run has ended
├── ExportError(RuntimeError)      a graph that cannot be exported
│   ├── ParityError                the exported file disagrees with the torch student
│   └── PrecisionError             an fp16 or int8 file that is not as asked for, or loses too much accuracy
├── BundleError(ValueError)        a bundle: missing, damaged, of another format
├── ImageError(ValueError)         an image handed to the client that cannot be used
├── DecodingError(RuntimeError)    the processes that decode images with a deadline cannot be started
├── ProviderError(RuntimeError)    an execution provider or device that is not available
├── BusyError(RuntimeError)        a MicroBatcher whose queue is full: try again later
├── BatchError(RuntimeError)       a batch of a MicroBatcher that the session could not run
├── TeacherError(RuntimeError)     the teacher of a Cascade failed, or did not answer in time
├── UnknownRequest(LookupError)    feedback to an answer that a Cascade does not know, or no longer
├── ClosedError(RuntimeError)      a Student, MicroBatcher or Cascade that was closed already
├── SettingError(ValueError)        an environment variable that cannot be used
├── ServingError(RuntimeError)     a teacher that cannot be served, or not at that address
├── BenchmarkError(RuntimeError)   a measurement that could not be made
└── MissingExtra(ImportError)      an optional package; the message holds the pip command

Each message is one line (BadImagesError: one line per image): what is wrong, what was expected, what to do.
The CLI prints it and exits with its `exit_code`, 1 unless said otherwise. Any other exception is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class VL2VError(Exception):
    """Base of all errors a user can act on."""

    exit_code = 1  # of the command line


class RecipeError(VL2VError, ValueError):
    """A recipe, a field of it, or a `--set` override is wrong."""


class DataError(VL2VError, ValueError):
    """A data folder does not hold what the recipe says."""


class BadImagesError(DataError):
    """Images that cannot be used: they do not decode, have no RGB, or a copy of another class.

    problems: (path, reason) of every bad image
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        lines = [f"{len(self.problems)} image(s) cannot be used; repair or remove them, or pass --skip-bad:"]
        lines += [f"  {path}: {reason}" for path, reason in self.problems]
        super().__init__("\n".join(lines))


class ModelError(VL2VError, ValueError):
    """A teacher or student cannot be built from what the recipe names."""


class VendorError(ModelError):
    """A vendor's server refused, answered what cannot be used, or did not answer; no message holds the key.

    status:    of the HTTP answer; None where none came
    terminal:  whether asking again is of no use: wrong key, no credit, a request that is refused
    positions: of the request's items in what was bought; None where no item is to blame
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        terminal: bool = False,
        positions: range | None = None,
    ) -> None:
        self.status, self.terminal, self.positions = status, terminal, positions
        super().__init__(message)


class BudgetError(VL2VError, RuntimeError):
    """The budget of a teacher has no room for the next query; nothing of it was sent."""

    exit_code = 3


class RunError(VL2VError, ValueError):
    """A run directory is missing, unfinished or damaged."""


class LostProcessError(VL2VError, RuntimeError):
    """Another of the processes that work on the same run has ended, or its node cannot be reached."""


class ExportError(VL2VError, RuntimeError):
    """A student cannot be exported."""


class ParityError(ExportError):
    """An exported file does not give the torch student's answers."""


class PrecisionError(ExportError):
    """A file does not compute in the precision that was asked for, or loses more accuracy than allowed."""


class BundleError(VL2VError, ValueError):
    """A bundle is missing, damaged or of another format."""


class ImageError(VL2VError, ValueError):
    """An image handed to the client cannot be used."""


class DecodingError(VL2VError, RuntimeError):
    """The processes that decode images with a deadline cannot be started."""


class ProviderError(VL2VError, RuntimeError):
    """An execution provider or device that was asked for is not available."""


class BusyError(VL2VError, RuntimeError):
    """The queue of a MicroBatcher is full; a server answers 503."""


class BatchError(VL2VError, RuntimeError):
    """The session failed on a batch of a MicroBatcher; its own error is the `__cause__`."""


class TeacherError(VL2VError, RuntimeError):
    """The teacher of a cascade failed, answered what cannot be used, or did not answer in time.

    billed: whether the query may have been charged
    """

    def __init__(self, message: str, *, billed: bool = True) -> None:
        self.billed = billed
        super().__init__(message)


class UnknownRequest(VL2VError, LookupError):
    """A label for an answer that a cascade never gave, or gave too long ago to remember."""


class ClosedError(VL2VError, RuntimeError):
    """A Student, MicroBatcher or Cascade was used after it was closed."""


class SettingError(VL2VError, ValueError):
    """An environment variable holds what cannot be used."""


class ServingError(VL2VError, RuntimeError):
    """A teacher cannot be served, or not as it was asked for."""


class BenchmarkError(VL2VError, RuntimeError):
    """A measurement could not be made."""


class MissingExtra(VL2VError, ImportError):
    """An optional package is not installed.

    package: the module that could not be imported
    extra:   the extra of vl2v-deploy that installs it
    hint:    what else the user can do
    """

    def __init__(self, package: str, extra: str, hint: str = "") -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed; run: pip install 'vl2v-deploy[{extra}]'{hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the closest known name, or nothing where none is close.

    >>> did_you_mean("resnet5O", ["resnet50", "vit_base"])
    "; did you mean 'resnet50'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(error: Exception) -> str:
    """Type and words of another library's error, without its line breaks; the first 300 characters.

    What cannot be printed is escaped: it may come from a damaged file.

    >>> one_line(OSError("no such\\n  file \\x02"))
    'OSError: no such file \\\\x02'
    """
    said = " ".join(str(error).split())
    said = "".join(c if c.isprintable() else repr(c)[1:-1] for c in said)
    words = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return words if len(words) <= 300 else f"{words[:297]}..."
