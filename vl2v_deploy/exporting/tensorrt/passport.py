"""Passports of engines on disk (`<plan>.json`), and whether an engine may run on this machine.

The plan itself stays as the library wrote it, so that trtexec and Triton load it. What a plan does not reveal
before it is deserialized is in the passport, which is read first and needs neither GPU nor TensorRT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.manifest import require_format
from vl2v_deploy.client.onnx_file import Parity
from vl2v_deploy.client.passport import PASSPORT_FORMAT, Flavour, Passport
from vl2v_deploy.client.typed_json import from_json, to_json
from vl2v_deploy.errors import BundleError, MissingExtra, ParityError, ProviderError

TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
AMPERE = (8, 0)


@dataclass(frozen=True)
class Here:
    """The machine that is to run an engine, as one library sees it.

    version:            of the library; None = not installed
    compute_capability: of the GPU, such as '8.6'; None = no GPU
    gpu:                the GPU's name
    platform:           such as 'linux-x86_64'
    """

    flavour: Flavour
    version: str | None
    compute_capability: str | None
    gpu: str | None
    platform: str


def passport_path(plan: Path) -> Path:
    """Where the plan's passport lies: student.fp16.plan -> student.fp16.plan.json."""
    return plan.with_name(f"{plan.name}.json")


def write_passport(plan: Path, passport: Passport) -> None:
    """Write the passport beside its plan; a reader sees the old one or the new one, never half of one."""
    path = passport_path(plan)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(to_json(passport), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_passport(plan: Path) -> Passport:
    """The plan's passport, once its hash shows that it describes these very bytes.

    Raises BundleError when plan or passport is missing, damaged, or not the other's.
    """
    path = passport_path(plan)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            require_format(found.get("format"), PASSPORT_FORMAT, str(path))
        passport = from_json(Passport, found)
    except BundleError:
        raise
    except FileNotFoundError as error:
        raise BundleError(
            f"{path}: missing: what {plan.name} was built for is not known; export again"
        ) from error
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read: {error}; export again") from error
    try:
        actual = sha256_of(plan)
    except OSError as error:
        raise BundleError(f"{plan}: cannot be read ({error.strerror}); {path.name} describes it") from error
    if actual != passport.plan_sha256:
        raise BundleError(
            f"{plan}: is not the file that {path.name} describes: SHA-256 is {actual[:12]}..., "
            f"expected {passport.plan_sha256[:12]}...; copy both again, or {_rebuild(passport)}"
        )
    return passport


def require_runnable(passport: Passport, here: Here) -> None:
    """Refuse an engine that this machine must not run.

    here: this machine as the passport's flavour of TensorRT sees it

    Raises ParityError for an engine that was marked unusable, MissingExtra without its library, ProviderError
    without a GPU, or for another version, platform or GPU than it was built for.
    """
    name, flavour = passport.plan, passport.flavour
    if passport.usable is False:
        raise ParityError(f"{name}: marked unusable: {passport.unusable_because}; {_rebuild(passport)}")
    if here.flavour != flavour:
        raise ProviderError(f"{name}: is a {TITLES[flavour]} engine, not one of {TITLES[here.flavour]}")
    if here.version is None:
        raise MissingExtra(flavour, EXTRAS[flavour], f"; {name} needs version {passport.version}")
    if here.compute_capability is None:
        raise ProviderError(f"{name}: a {TITLES[flavour]} engine needs an NVIDIA GPU, and torch sees none")
    differences = _differences(passport, here.version, here.compute_capability, here)
    if differences is not None:
        built, now = differences
        on = f"{TITLES[flavour]} {here.version} / {_sm(here.compute_capability)}"
        raise ProviderError(
            f"{name}: built for {', '.join([_built_for(passport), *built])}, here {', '.join([on, *now])}: "
            f"{_rebuild(passport, here.compute_capability)}"
        )


def record_parity(plan: Path, parity: Parity) -> Passport:
    """Write into the passport that the engine's answers were compared and are right; returns the passport."""
    passport = replace(
        read_passport(plan), usable=True, unusable_because=None, parity=parity, parity_note=None
    )
    write_passport(plan, passport)
    return passport


def mark_unusable(plan: Path, because: str) -> None:
    """Write into the passport that the engine must not be run, and why; nothing is deleted.

    because: one line, such as the message of a ParityError
    """
    write_passport(plan, replace(read_passport(plan), usable=False, unusable_because=because, parity=None))


def outcome(passport: Passport) -> str:
    """Whether the engine's answers were compared, and how that went; for people."""
    match passport.usable:
        case True:
            return "same answers as torch"
        case False:
            return f"UNUSABLE: {passport.unusable_because}"
        case None:
            return str(passport.parity_note)


def unusable(passports: Mapping[str, Passport]) -> str:
    """A line about the engines that are marked unusable; empty when none is."""
    wrong = {name: passport for name, passport in passports.items() if passport.usable is False}
    if not wrong:
        return ""
    reasons = "; ".join(str(passport.unusable_because) for passport in wrong.values())
    return f"{', '.join(wrong)}: marked unusable; the rest of the bundle is fine: {reasons}"


def _differences(
    passport: Passport, version: str, capability: str, here: Here
) -> tuple[list[str], list[str]] | None:
    """What the engine was built for and what is here, of all that keeps it from running; None = it runs.

    Version and compute capability are in every message, and so not in the lists.
    """
    runs = _version_fits(passport, version) and _capability_fits(passport, capability)
    built, now = [], []
    if passport.flavour == "tensorrt" and passport.platform != here.platform:
        built.append(passport.platform)  # TensorRT-RTX engines are portable between systems
        now.append(here.platform)
    same_gpu = passport.flavour == "tensorrt" and passport.hardware_compatible == "none"
    if same_gpu and _capability_fits(passport, capability) and here.gpu != passport.gpu:
        # The same compute capability is not enough: tactics were chosen by timing that very model.
        built.append(str(passport.gpu))
        now.append(f"{here.gpu} (--hardware-compatible same-capability runs on both)")
    return None if runs and not built else (built, now)


def _version_fits(passport: Passport, here: str) -> bool:
    """A version-compatible engine brings its own runtime and runs on every later version; others on one."""
    if passport.version_compatible:
        return _numbers(here) >= _numbers(passport.version)
    return here == passport.version


def _capability_fits(passport: Passport, here: str) -> bool:
    if passport.hardware_compatible == "ampere-plus":
        return _numbers(here) >= AMPERE
    return here in passport.compute_capabilities


def _built_for(passport: Passport) -> str:
    later = " or later" if passport.version_compatible else ""
    version = f"{TITLES[passport.flavour]} {passport.version}{later}"
    if passport.hardware_compatible == "ampere-plus":
        return f"{version} / SM80 or later"
    return f"{version} / {', '.join(map(_sm, passport.compute_capabilities))}"


def _rebuild(passport: Passport, capability: str | None = None) -> str:
    command = f"vl2v-deploy export RUN --{EXTRAS[passport.flavour]}"
    if passport.flavour == "tensorrt_rtx":
        targets = [capability] if capability else passport.compute_capabilities
        command += f" --compute-capability {','.join(targets)}"
    return f"rebuild with: {command}"


def _sm(capability: str) -> str:
    """'8.6' -> 'SM86'."""
    return f"SM{capability.replace('.', '')}"


def _numbers(version: str) -> tuple[int, ...]:
    """'10.16.0.72' -> (10, 16, 0, 72): compared by value, since '9' > '10' as text."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
