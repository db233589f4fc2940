"""The passport beside an engine (`<plan>.json`): what it was built from and for, and whether it may run here.

The plan itself stays as the library wrote it, so that trtexec and Triton load it. What a plan cannot say of
itself before it is deserialized stands in the passport, which is read first and needs no GPU and no TensorRT.

    "usable": null     built, its answers not yet compared with torch's
              true     compared at the profile's batch sizes, within the tolerance
              false    compared and wrong ("unusable_because"), or not to be trusted: it is never run again
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from vl2v_deploy.client.bundle import sha256_of
from vl2v_deploy.errors import BundleError, MissingExtra, ParityError, ProviderError

Flavour: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
HardwareCompatible: TypeAlias = Literal["none", "ampere-plus", "same-capability"]

FORMAT = 1
AMPERE = (8, 0)
# What the rules below read; whatever else stands in a passport is for people.
_NEEDED = {
    "format": int,
    "plan": str,
    "flavour": str,
    "version": str,
    "platform": str,
    "compute_capabilities": list,
    "profile": dict,
    "version_compatible": bool,
    "hardware_compatible": str,
    "plan_sha256": str,
}


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


def write_passport(plan: Path, passport: Mapping[str, Any]) -> None:
    """Write the passport beside its plan; a reader sees the old one or the new one, never half of one."""
    path = passport_path(plan)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(passport, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_passport(plan: Path) -> dict[str, Any]:
    """The plan's passport, proved to be that of these very bytes.

    Raises BundleError when plan or passport is missing, damaged, or not the other's.
    """
    path = passport_path(plan)
    try:
        passport = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path}: missing: without it nobody knows what {plan.name} was built for; export again"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); export again") from error
    _require_fields(path, passport)
    try:
        actual = sha256_of(plan)
    except OSError as error:
        raise BundleError(f"{plan}: cannot be read ({error.strerror}); {path.name} describes it") from error
    if actual != passport["plan_sha256"]:
        raise BundleError(
            f"{plan}: is not the file that {path.name} describes: SHA-256 is {actual[:12]}..., "
            f"expected {passport['plan_sha256'][:12]}...; copy both again, or {_rebuild(passport)}"
        )
    return dict(passport)


def require_runnable(passport: Mapping[str, Any], here: Here) -> None:
    """Refuse an engine that this machine must not run.

    passport: what `read_passport` gave
    here:     this machine as the passport's flavour of TensorRT sees it

    Raises ParityError for an engine that was marked unusable, MissingExtra without its library, ProviderError
    without a GPU, or for another version, platform or GPU than it was built for.
    """
    name, flavour = passport["plan"], passport["flavour"]
    if passport.get("usable") is False:
        raise ParityError(
            f"{name}: marked unusable: {passport.get('unusable_because')}; {_rebuild(passport)}"
        )
    if here.flavour != flavour:
        raise ProviderError(f"{name}: is a {TITLES[flavour]} engine, not one of {TITLES[here.flavour]}")
    if here.version is None:
        raise MissingExtra(flavour, EXTRAS[flavour], f"; {name} needs version {passport['version']}")
    if here.compute_capability is None:
        raise ProviderError(
            f"{name}: a {TITLES[flavour]} engine needs an NVIDIA GPU, and torch sees none here"
        )
    differences = _differences(passport, here)
    if differences:
        built = ", ".join([_built_for(passport), *(then for then, _ in differences if then)])
        now = ", ".join(
            [
                f"{TITLES[flavour]} {here.version} / {_sm(here.compute_capability)}",
                *(now for _, now in differences if now),
            ]
        )
        raise ProviderError(f"{name}: built for {built}, here {now}: {_rebuild(passport, here)}")


def record_parity(plan: Path, parity: Mapping[str, Any]) -> dict[str, Any]:
    """Write into the passport that the engine's answers were compared and are right; returns the passport.

    parity: what was compared, for JSON, such as asdict(Parity)
    """
    passport = read_passport(plan) | {
        "usable": True,
        "unusable_because": None,
        "parity": dict(parity),
        "parity_note": None,
    }
    write_passport(plan, passport)
    return passport


def mark_unusable(plan: Path, because: str) -> dict[str, Any]:
    """Write into the passport that the engine must not be run, and why; nothing is deleted.

    because: one line, such as the message of a ParityError
    """
    passport = read_passport(plan) | {"usable": False, "unusable_because": because, "parity": None}
    write_passport(plan, passport)
    return passport


def outcome(passport: Mapping[str, Any]) -> str:
    """Whether the engine's answers were compared, and how that went; for people."""
    match passport["usable"]:
        case True:
            return "same answers as torch"
        case False:
            return f"UNUSABLE: {passport['unusable_because']}"
        case _:
            return str(passport["parity_note"])


def unusable(passports: Mapping[str, Mapping[str, Any]]) -> str:
    """What to say of the engines that are marked unusable; empty when none is."""
    wrong = {name: passport for name, passport in passports.items() if passport["usable"] is False}
    if not wrong:
        return ""
    reasons = "; ".join(str(passport["unusable_because"]) for passport in wrong.values())
    return f"{', '.join(wrong)}: marked unusable, the rest is as it should be: {reasons}"


def _require_fields(path: Path, passport: Any) -> None:
    if not isinstance(passport, dict):
        raise BundleError(f"{path}: expected a JSON object, got {type(passport).__name__}; export again")
    for field, kind in _NEEDED.items():
        value = passport.get(field)
        if not isinstance(value, kind):
            got = "nothing" if field not in passport else f"{value!r}"
            raise BundleError(f"{path}: {field}: expected {kind.__name__}, got {got}; export again")
    if passport["format"] != FORMAT:
        raise BundleError(
            f"{path}: format {passport['format']}, this version reads format {FORMAT}; export again"
        )
    choices = {"flavour": tuple(TITLES), "hardware_compatible": get_args(HardwareCompatible)}
    for field, known in choices.items():
        if passport[field] not in known:
            expected = f"expected one of {', '.join(known)}"
            raise BundleError(f"{path}: {field}: {expected}, got {passport[field]!r}; export again")
    if not isinstance(usable := passport.get("usable"), bool | None):
        raise BundleError(f"{path}: usable: expected true, false or null, got {usable!r}; export again")


def _differences(passport: Mapping[str, Any], here: Here) -> list[tuple[str, str]]:
    """What keeps the engine from running here: (what it was built for, what is here) of each.

    Version and compute capability stand in every message and need no words of their own: ("", "").
    """
    found = []
    if not _version_fits(passport, str(here.version)):
        found.append(("", ""))
    if passport["flavour"] == "tensorrt" and passport["platform"] != here.platform:
        found.append((passport["platform"], here.platform))  # RTX engines are portable between systems
    if not _capability_fits(passport, str(here.compute_capability)):
        found.append(("", ""))
    elif _needs_same_gpu(passport) and here.gpu != passport.get("gpu"):
        # The same compute capability is not enough: tactics were chosen by timing that model's own sizes.
        found.append(
            (str(passport.get("gpu")), f"{here.gpu} (--hardware-compatible same-capability runs on both)")
        )
    return found


def _version_fits(passport: Mapping[str, Any], here: str) -> bool:
    """A version-compatible engine carries its own runtime and runs on every later version; others on one."""
    if passport["version_compatible"]:
        return _numbers(here) >= _numbers(passport["version"])
    return here == str(passport["version"])


def _capability_fits(passport: Mapping[str, Any], here: str) -> bool:
    if passport["hardware_compatible"] == "ampere-plus":
        return _numbers(here) >= AMPERE
    return here in list(passport["compute_capabilities"])


def _needs_same_gpu(passport: Mapping[str, Any]) -> bool:
    return (passport["flavour"], passport["hardware_compatible"]) == ("tensorrt", "none")


def _built_for(passport: Mapping[str, Any]) -> str:
    version = (
        f"{TITLES[passport['flavour']]} {passport['version']}{' or later' * passport['version_compatible']}"
    )
    if passport["hardware_compatible"] == "ampere-plus":
        return f"{version} / SM80 or later"
    return f"{version} / {', '.join(map(_sm, passport['compute_capabilities']))}"


def _rebuild(passport: Mapping[str, Any], here: Here | None = None) -> str:
    command = f"vl2v-deploy export RUN --{EXTRAS[passport['flavour']]}"
    if passport["flavour"] == "tensorrt_rtx":
        targets = [here.compute_capability] if here else passport["compute_capabilities"]
        command += f" --compute-capability {','.join(map(str, targets))}"
    return f"rebuild with: {command}"


def _sm(capability: str) -> str:
    """'8.6' -> 'SM86'."""
    return f"SM{capability.replace('.', '')}"


def _numbers(version: str) -> tuple[int, ...]:
    """'10.16.0.72' -> (10, 16, 0, 72): compared by value, since '9' > '10' as text."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
