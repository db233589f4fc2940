"""Python and the packages against what this package's own metadata says was tested."""

from __future__ import annotations

import platform
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from vl2v_deploy.doctor.findings import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "vl2v-deploy"
RUNTIME = "onnxruntime"  # each of its packages brings a module of this name


@dataclass(frozen=True)
class Range:
    """Versions of a package that were tested, and the extra that asks for it ("" = the base)."""

    requirement: Requirement
    extra: str

    @property
    def package(self) -> str:
        return str(self.requirement.name)

    @property
    def version(self) -> str | None:
        """What is installed; None = nothing."""
        return _version(self.package)

    @property
    def fits(self) -> bool:
        version = self.version
        return version is not None and self.requirement.specifier.contains(version, prereleases=True)


def check_python() -> Iterator[Finding]:
    """Its version against the range in our metadata, and what it runs on."""
    facts = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "bits": struct.calcsize("P") * 8,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "environment": sys.prefix != sys.base_prefix,
    }
    what = f"{facts['implementation']} {facts['python']} on {facts['platform']}"
    if facts["bits"] != 64:
        yield Finding(
            "python", "broken", f"{what}, 32 bits", "install a 64-bit Python: onnxruntime has no other", facts
        )
        return
    try:
        from packaging.specifiers import SpecifierSet

        asked = metadata.metadata(NAME)["Requires-Python"]
    except (ImportError, metadata.PackageNotFoundError):
        asked = None
    if asked and not SpecifierSet(asked).contains(platform.python_version(), prereleases=True):
        yield Finding("python", "broken", f"{what}: {asked} is needed", "install such a Python", facts)
        return
    yield Finding("python", "ok", what, "", facts)


def check_packages() -> Iterator[Finding]:
    """Versions against the ranges of the base and of each extra; extras of which packages are missing."""
    try:
        ranges = tested_ranges()
    except metadata.PackageNotFoundError:  # an ImportError, too
        yield Finding(
            "packages",
            "unknown",
            f"{NAME} is not installed, it runs from a folder: its tested ranges are not known",
            "pip install -e . in the folder",
        )
        return
    except ImportError:
        yield Finding(
            "packages",
            "unknown",
            "packaging is not installed: versions cannot be compared with the tested ranges",
            "pip install packaging",
        )
        return
    incomplete = {one.extra for one in ranges if one.version is None} - {""}
    installed = [one for one in ranges if one.version is not None and one.extra not in incomplete]
    fitting = {one.package: one.version for one in installed if one.fits}
    words = ", ".join(f"{name} {version}" for name, version in fitting.items())
    yield Finding("packages", "ok", f"inside their tested ranges: {words or 'none'}", "", fitting)
    outside = {(one.package, str(one.requirement.specifier)): one for one in installed if not one.fits}
    yield from map(_outside, outside.values())
    yield from _missing(ranges)


def check_runtimes() -> Iterator[Finding]:
    """Whether there is one onnxruntime: its packages overwrite each other's files."""
    installed = {
        name: found.version
        for found in metadata.distributions()
        if (name := (found.name or "").lower().replace("_", "-")).startswith(RUNTIME) and _is_runtime(found)
    }
    if not installed:
        yield Finding(
            "onnxruntime",
            "broken",
            "no onnxruntime is installed: neither the client nor export can run",
            f"pip install '{NAME}[cpu]' (or [gpu], never both)",
        )
    elif len(installed) > 1:
        names = " and ".join(f"{name} {version}" for name, version in sorted(installed.items()))
        yield Finding(
            "onnxruntime",
            "broken",
            f"{names} overwrite each other's files: which of them runs is chance",
            f"pip uninstall -y {' '.join(sorted(installed))}; pip install '{NAME}[cpu]' (or [gpu])",
            {"installed": installed},
        )


def check_conflicts() -> Iterator[Finding]:
    """What the installed packages that we ask for say of each other's versions: torchvision of torch."""
    try:
        from packaging.requirements import Requirement

        names = sorted({one.package for one in tested_ranges() if one.version is not None})
    except (ImportError, metadata.PackageNotFoundError):
        return  # check_packages says so
    for name in names:
        for line in metadata.requires(name) or ():
            asked = Requirement(line)
            if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
                continue
            version = _version(asked.name)
            if version is None or asked.specifier.contains(version, prereleases=True):
                continue
            yield Finding(
                "packages",
                "warning",
                f"{name} {_version(name)} was made for {asked.name} {asked.specifier}, not for {version}",
                f"pip install -U '{name}' '{asked.name}'",
                {"package": name, "needs": str(asked), "installed": version},
            )


def tested_ranges() -> list[Range]:
    """The ranges in the installed package's own metadata.

    Raises ImportError without `packaging`, PackageNotFoundError where this package is not installed.
    """
    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires(NAME) or ():
        requirement = Requirement(line)
        named = re.search(r"""extra\s*==\s*["']([^"']+)""", str(requirement.marker or ""))
        extra = named[1] if named else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found.append(Range(requirement, extra))
    return found


def _outside(tested: Range) -> Finding:
    """Of a package whose version was not tested."""
    name, asked = tested.package, str(tested.requirement.specifier)
    extra = f" of the extra {tested.extra}" if tested.extra else ""
    what = f"{name} {tested.version} is outside the tested range {asked}{extra}"
    facts = {"package": name, "version": tested.version, "tested": asked}
    return Finding("packages", "warning", what, f"pip install '{name}{asked}'", facts)


def _missing(ranges: list[Range]) -> Iterator[Finding]:
    """The base packages and extras of which something is not installed."""
    has_runtime = any(one.package.startswith(RUNTIME) and one.version is not None for one in ranges)
    for extra in dict.fromkeys(one.extra for one in ranges):
        of_extra = [one for one in ranges if one.extra == extra]
        missing = sorted({one.package for one in of_extra if one.version is None})
        if not missing or (has_runtime and all(name.startswith(RUNTIME) for name in missing)):
            continue  # a second onnxruntime would break the first
        if not extra:
            yield Finding("packages", "broken", f"not installed: {', '.join(missing)}", f"pip install {NAME}")
            continue
        own = {one.package for one in of_extra} - {one.package for one in ranges if not one.extra}
        state = "not installed" if len(missing) == len(own) else "not whole"
        facts = {"extra": extra, "missing": missing}
        what = f"extra {extra} is {state}: {', '.join(missing)}"
        yield Finding("extras", "note", what, f"if you want it: pip install '{NAME}[{extra}]'", facts)


def _is_runtime(found: metadata.Distribution) -> bool:
    files = found.files
    if files is None:  # what it installed was not written down
        return found.name in (RUNTIME, f"{RUNTIME}-gpu")
    return any(file.parts[0] == RUNTIME for file in files)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
