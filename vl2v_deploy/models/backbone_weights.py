"""A backbone's weights from a checkpoint file, however a training framework wrapped them.

A checkpoint is data: its tensors are read, and no code in it is run.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vl2v_deploy.errors import ModelError
from vl2v_deploy.names import listed, shown
from vl2v_deploy.terminal import new_console

State: TypeAlias = dict[str, Tensor]
MOST_NESTED = 4  # dictionaries inside each other
# Of parts that fit as well: the copies that their frameworks do not mean for use elsewhere, as whole words of
# their names. DINO's is the student, MoCo's and BYOL's the slow one; timm's moving average is not what its
# own files are called after.
_COPIES = ("student", "momentum", "encoder_k", "target", "ema")
# Weights of a model itself, not of one of its modules, that only pretraining by masked images uses. Any
# other, such as the token of distillation, takes part in every answer.
_OF_PRETRAINING = ("mask_token", "decoder_pos_embed")
_WRAPPERS = ("", "module.", "backbone.", "model.", "module.backbone.")


@dataclass(frozen=True)
class _Part:
    """Weights of a checkpoint that may be the backbone's.

    place:  keys of the nested dictionaries and the names' prefix, dotted; "" = the whole file
    state:  converted to timm's names and the backbone's image size
    beside: names in the same dictionary that have another prefix
    """

    place: str
    state: State
    beside: tuple[str, ...]


def load_backbone_file(backbone: nn.Module, file: Path, source: str) -> None:
    """Load the checkpoint `file` into a headless timm backbone; what is left out is printed.

    source: what messages call it

    Raises ModelError for a file that cannot be read without running code, holds no weights of the backbone or
    several that fit as well, lacks some, or has some of another shape.
    """
    content = _read(file, source)
    part = _best_part(backbone, content, source)
    at = f" in {part.place.rstrip('.')}" if part.place else ""
    notes = load_backbone_state(backbone, part.state, source + at)
    before = dict(_tensors(content))
    if part.beside:
        notes.append(f"{len(part.beside)} beside them left out: {listed(part.beside)}")
    resized = [
        f"{name} {tuple(old.shape)} to {tuple(part.state[name].shape)}"
        for name in part.state
        if (old := before.get(part.place + name)) is not None and old.shape != part.state[name].shape
    ]
    if resized:
        notes.append(f"{len(resized)} resampled for the image size: {listed(resized, most=2)}")
    if notes:
        _say(f"{source}{at}: {'; '.join(notes)}.")


def load_backbone_state(backbone: nn.Module, state: State, source: str) -> list[str]:
    """Load a state dict with the backbone's names, and say what of it was left out, a note for each kind.

    Weights of the classifier, which is what timm says it is, of modules that the backbone does not have, and
    those that only pretraining uses are left out.

    Raises ModelError where a weight is missing, of another shape, or one more of the model itself or of a
    module that the backbone has: the checkpoint is of another model then.
    """
    wanted = backbone.state_dict()
    names = _classifier_names(backbone)
    left = [key for key in state if key not in wanted]
    head = [key for key in left if any(key == name or key.startswith(f"{name}.") for name in names)]
    others = [key for key in left if key not in head]
    own = {key.partition(".")[0] for key in wanted}
    missing = [key for key in wanted if key not in state]
    # A count of batches or an index table is no weight: the backbone's own will do.
    counts = [key for key in missing if not wanted[key].is_floating_point()]
    for what, keys in (
        ("missing", [key for key in missing if key not in counts]),
        ("of no layer of this backbone", [key for key in others if _is_stray(key, own)]),
        ("of another shape", [k for k in wanted if k in state and wanted[k].shape != state[k].shape]),
    ):
        if keys:
            raise ModelError(f"{source}: {len(keys)} weight(s) {what}: {listed(keys)}")
    backbone.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})
    return [
        f"{len(keys)} {what}: {listed(keys)}"
        for what, keys in (
            ("of the classifier dropped", head),
            ("of other modules left out", others),
            ("counters missing, set to their start", counts),
        )
        if keys
    ]


def _is_stray(key: str, own: set[str]) -> bool:
    """Whether it takes part in the answers of a model that this backbone is not.

    own: first parts of the backbone's names
    """
    first, dot, _ = key.partition(".")
    return first in own or (not dot and key not in _OF_PRETRAINING)


def _read(file: Path, source: str) -> Any:
    if not file.is_file():
        raise ModelError(f"{source}: no such file (nor 'timm', 'timm:TAG' or 'builtin')")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # argparse's Namespace, in which many trainings keep their options, only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{source}: {_why_unsafe(file, error)}") from error
    except Exception as error:  # each format has its own family of errors
        raise ModelError(f"{source}: not a checkpoint: {shown(str(error))}") from error


def _why_unsafe(file: Path, error: Exception) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # a file that is no checkpoint at all fails in many ways
        found = []
    if not found:
        return f"not a checkpoint: {shown(str(error).splitlines()[0])}"
    return (
        f"holds Python objects besides tensors ({listed(found)}), which could run code and are not loaded; "
        "if you trust it, save its tensors alone, with safetensors.torch.save_file"
    )


def _best_part(backbone: nn.Module, content: Any, source: str) -> _Part:
    """The part of a checkpoint that has most of the backbone's weights."""
    wanted = {key for key, value in backbone.state_dict().items() if value.is_floating_point()}
    parts = [
        _Part(
            f"{place}.{prefix}" if place else prefix,
            _converted(backbone, _below(state, prefix)),
            tuple(key for key in state if not key.startswith(prefix)),
        )
        for place, state in _states(content)
        for prefix in _prefixes(state, wanted)
    ]
    fits = [len(wanted & part.state.keys()) for part in parts]
    most = max(fits, default=0)
    if most < len(wanted) / 2:  # a few short names, such as bn1.weight, are found in any model
        keys = [key for _, state in _states(content) for key in state]
        such = f"its names are such as {listed(keys, most=3)}" if keys else "it holds no tensors by name"
        if any(_is_by_position(backbone, state) for _, state in _states(content)):
            such += "; by their order alone nothing is proven: save them under timm's names"
        raise ModelError(f"{source}: is of another model: has {most} of the {len(wanted)} weights; {such}")
    best = _distinct([part for part, fit in zip(parts, fits, strict=True) if fit == most], wanted)
    meant = [part for part in best if not _is_copy(part.place)]
    if len(best) > 1 and len(meant) != 1:
        places = listed([part.place.rstrip(".") or "the file itself" for part in best])
        raise ModelError(f"{source}: several parts of it fit as well: {places}; save the one you mean alone")
    chosen = best[0] if len(best) == 1 else meant[0]
    if len(best) > 1:
        others = listed([part.place.rstrip(".") for part in best if part is not chosen])
        _say(f"{source}: {chosen.place.rstrip('.') or 'the file itself'} is used; {others} would fit, too.")
    return chosen


def _is_copy(place: str) -> bool:
    words = f"_{place.replace('.', '_')}_"
    return any(f"_{copy}_" in words for copy in _COPIES)


def _distinct(parts: Iterable[_Part], wanted: Iterable[str]) -> list[_Part]:
    """Parts that differ in one of the wanted weights: one can be found under two prefixes."""
    found: list[_Part] = []
    for part in parts:
        if not any(_same(part.state, other.state, wanted) for other in found):
            found.append(part)
    return found


def _same(one: State, other: State, names: Iterable[str]) -> bool:
    shared = [name for name in names if name in one]
    return all(name in other and torch.equal(one[name], other[name]) for name in shared)


def _states(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every dictionary in a checkpoint that holds tensors by name, and where it is."""
    if not isinstance(content, Mapping) or depth > MOST_NESTED:
        return
    state = {key: value for key, value in content.items() if isinstance(key, str) and _is_tensor(value)}
    if state:
        yield place, state
    for key, value in content.items():
        yield from _states(value, f"{place}.{key}" if place else str(key), depth + 1)


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    for place, state in _states(content):
        yield from ((f"{place}.{key}" if place else key, value) for key, value in state.items())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _prefixes(state: State, wanted: Iterable[str]) -> list[str]:
    """What stands before the backbone's names in a state dict, the commonest first, and usual wrappers."""
    known = set(wanted)
    found: Counter[str] = Counter()
    for key in state:
        start = 0
        while start >= 0:
            if key[start:] in known:
                found[key[:start]] += 1
            start = key.find(".", start) + 1 or -1
    usual = [prefix for prefix in _WRAPPERS if any(key.startswith(prefix) for key in state)]
    return [*dict.fromkeys([*(prefix for prefix, _ in found.most_common(4)), *usual])]


def _below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _converted(backbone: nn.Module, state: State) -> State:
    """As timm itself converts checkpoints of the backbone's family when it loads its own.

    It knows the names of the family's authors, and resamples position embeddings and patches for another
    image size. Where it would go by the order of the weights, they stay as they are; weights of the model
    itself that it drops are kept, to be judged by name.
    """
    converted = _by_timm(backbone, state)
    if converted is None or _is_by_position(backbone, state):
        return state
    renames = not converted.keys() <= state.keys()
    return converted if renames else converted | _of_model_itself(state, converted)


def _of_model_itself(state: State, but: State) -> State:
    return {key: value for key, value in state.items() if "." not in key and key not in but}


def _is_by_position(backbone: nn.Module, state: State) -> bool:
    """Whether timm converts a checkpoint by the order of its weights, which any other model has, too."""
    converted = _by_timm(backbone, state)
    if converted is None or converted.keys() == state.keys():
        return False
    backwards = _by_timm(backbone, dict(reversed(state.items())))
    return (
        backwards is None
        or backwards.keys() != converted.keys()
        or any(not torch.equal(backwards[key], value) for key, value in converted.items())
    )


def _by_timm(backbone: nn.Module, state: State) -> State | None:
    """None where timm cannot convert it, or has no conversion for the family."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        converted: State = convert(dict(state), backbone)
    except (KeyError, AttributeError, RuntimeError, AssertionError, TypeError, IndexError, ValueError):
        return None  # of another family, or only a part: its names and shapes are judged as they are
    return converted


def _classifier_names(backbone: nn.Module) -> tuple[str, ...]:
    """timm's names of the classifier's layers, such as fc, or head and head_dist."""
    cfg: Any = getattr(backbone, "default_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


@cache
def _say(text: str) -> None:
    """Print what a user is told about a checkpoint; once, as each run of a recipe loads it."""
    new_console(stderr=True).print(text, soft_wrap=True, highlight=False)
