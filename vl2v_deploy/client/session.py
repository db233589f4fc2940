"""Which file of a bundle runs, on which execution provider, and the onnxruntime session that does it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vl2v_deploy.client.bundle import Bundle
from vl2v_deploy.client.cpu import int8_instruction, may_saturate_int8
from vl2v_deploy.client.external_data import external_files
from vl2v_deploy.client.forking import keep_in_children
from vl2v_deploy.client.providers import (
    ASSIGNMENT,
    CPU,
    CUDA,
    TENSORRT,
    Providers,
    available,
    import_onnxruntime,
    named_providers,
    no_device,
    problem_with,
)
from vl2v_deploy.client.threads import session_threads
from vl2v_deploy.errors import BundleError, ProviderError, one_line

AUTO = "auto"
# What "auto" tries. Not TensorRT: it builds an engine at every start, and again for larger batches.
AUTO_PROVIDERS = (CUDA, CPU)
EXACT_SUMS = (
    "its weights are not proven to keep sums of 8-bit products within 16 bits, where this processor may "
    "saturate them: they are summed exactly, which is slower; export the run again for a file that is proven"
)
MOST_WORDS = 300  # of an error of onnxruntime's, or of what is found in a file
_LOGGER = logging.getLogger("vl2v_deploy.client")


@dataclass(frozen=True)
class Runtime:
    """What answers: recorded with every prediction.

    provider:    execution provider of onnxruntime
    precision:   of the bundle's file: fp32, fp16, int8 or int8-symmetric
    threads:     within an operator; None = onnxruntime's own choice, on other systems than Linux
    onnxruntime: its version
    why:         how provider, precision and threads were chosen
    """

    provider: str
    precision: str
    threads: int | None
    onnxruntime: str
    why: str


def open_runtime(
    bundle: Bundle, precision: str, providers: Providers, threads: int | None
) -> tuple[Any, Runtime]:
    """The session that runs the bundle, and what it is.

    Arguments and errors are those of Student.load.
    """
    if providers != AUTO:
        return _open(bundle, precision, providers, threads, [])
    notes: list[str] = []
    for name in AUTO_PROVIDERS:
        try:
            return _open(bundle, precision, name, threads, notes)
        except ProviderError as error:
            notes.append(str(error))
    raise ProviderError("; ".join(notes))


def _open(
    bundle: Bundle, precision: str, providers: Providers, threads: int | None, not_better: list[str]
) -> tuple[Any, Runtime]:
    """The session on one choice of providers; `not_better` says why none before it runs."""
    asked = named_providers(providers)
    provider, _ = asked[0]
    notes = []
    if precision == AUTO:
        proven = "int8" in bundle.precisions and not bundle.may_saturate("int8")
        precision, note = choose_precision(bundle.precisions, provider, proven=proven)
        notes.append(note)
    if threads is None:
        threads, note = session_threads()
        notes.append(note)
    file = bundle.onnx_of(precision)
    exact = bundle.may_saturate(precision) and may_saturate_int8()
    session = open_session(file, asked, threads, exact_int8=exact)
    reasons = [*not_better, *notes] or ["as asked for"]
    why = "; ".join([*reasons, *([f"{file.name}: {EXACT_SUMS}"] if exact else [])])
    runtime = Runtime(provider, precision, threads, import_onnxruntime().__version__, why)
    _LOGGER.info("%s runs in %s on %s: %s", bundle.source, precision, provider, why)
    return session, runtime


def choose_precision(has: tuple[str, ...], provider: str, *, proven: bool) -> tuple[str, str]:
    """The precision that "auto" stands for, and why.

    On the CPU int8 where the bundle has it and the processor is faster in it; on CUDA and TensorRT fp16 where
    the bundle has it; else fp32.

    has:      precisions of the bundle
    provider: execution provider that will run it
    proven:   whether sums in the int8 file saturate on no processor
    """
    if provider in (CUDA, TENSORRT):
        if "fp16" in has:
            return "fp16", f"fp16: the bundle has it, and {provider} is faster in it"
        return "fp32", "fp32: the bundle has no fp16 file"
    if provider != CPU:
        return "fp32", f"fp32: no other precision is known to be faster on {provider}"
    if "int8" not in has:
        return "fp32", "fp32: the bundle has no int8 file"
    instruction = int8_instruction()
    if instruction is None:
        return "fp32", "fp32: no instruction of this processor is known to make int8 faster"
    if not proven and may_saturate_int8():
        return "fp32", "fp32: the int8 file's sums may saturate on this processor; export the run again"
    return "int8", f"int8: the bundle has it, and it is faster with this processor's {instruction}"


def open_session(
    onnx: Path | bytes,
    providers: Providers = None,
    threads: int | None = None,
    *,
    exact_int8: bool = False,
) -> Any:
    """An onnxruntime session that runs on the first of `providers`; its answers are not looked at.

    onnx:       the file, or its bytes
    providers:  name, (name, options) or several; None = the CPU. Those after the first take what it cannot
    threads:    within an operator; None = as many as `session_threads` says
    exact_int8: sum 8-bit products without saturation where the processor would saturate: slower there,
                nothing changes elsewhere

    Raises ProviderError when the first does not run, BundleError for a file that onnxruntime cannot load,
    ValueError for threads below 1.
    """
    if threads is None:
        threads, _ = session_threads()
    if threads is not None and threads < 1:
        raise ValueError(f"threads {threads}: expected at least 1")
    asked = named_providers(providers)
    for name, _ in asked:
        if problem := problem_with(name):
            raise ProviderError(f"{name} cannot run here: {problem}")
    first = asked[0][0]
    options = _session_options(first, threads, exact_int8)
    if isinstance(onnx, bytes):
        _require_whole(onnx)
    source = onnx if isinstance(onnx, bytes) else os.fspath(onnx)
    open_here = _session_on_cpu if first == CPU else partial(_session_on, first)
    session = open_here(source, options, asked)
    keep_in_children(session)
    return session


def _session_on_cpu(onnx: str | bytes, options: Any, asked: list[tuple[str, dict[str, Any]]]) -> Any:
    try:
        runtime = import_onnxruntime()
        return runtime.InferenceSession(onnx, options, providers=asked, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        # the CPU always runs: what fails is the file
        raise BundleError(
            f"{_named(onnx)}: onnxruntime cannot load it: {one_line(error)[:MOST_WORDS]}"
        ) from error


def check_signature(session: Any, bundle: Bundle, file: Path) -> None:
    """BundleError unless the graph's input and outputs are those of the manifest, as far as it says them."""
    size = bundle.image_size_px
    expected = {
        "images": ("tensor(uint8)", (size, size, 3)),
        "logits": ("tensor(float)", (len(bundle.classes),)),
        "embedding": ("tensor(float)", (bundle.embedding_dim,)),
    }
    values = [*session.get_inputs(), *session.get_outputs()]
    try:
        found = {one.name: (one.type, one.shape) for one in values}
        inputs = [one.name for one in session.get_inputs()]
    except UnicodeDecodeError as error:  # of a name, or of a dimension's
        raise BundleError(
            f"{file}: a name in its graph is not UTF-8: it is damaged, copy it again"
        ) from error
    if inputs != ["images"]:
        raise BundleError(f"{file}: expected the one input images, got {', '.join(found)[:MOST_WORDS]}")
    for name, (kind, shape) in expected.items():
        if name not in found:
            raise BundleError(f"{file}: has no output {name}: it is not a student's graph")
        its_kind, its_shape = found[name]
        rest = tuple(its_shape[1:])
        fits = len(rest) == len(shape) and all(
            not isinstance(here, int) or here == there for here, there in zip(rest, shape, strict=True)
        )
        if its_kind != kind or not fits:
            raise BundleError(
                f"{file}: {name}: expected {kind} of shape (batch, {', '.join(map(str, shape))}) as the "
                f"manifest says, got {its_kind} of shape {str(its_shape)[:MOST_WORDS]}"
            )


def _named(onnx: str | bytes) -> str:
    return f"{len(onnx)} bytes of a graph" if isinstance(onnx, bytes) else str(onnx)


def _require_whole(onnx: bytes) -> None:
    """BundleError for a graph with weights in a file: onnxruntime would look for it in the current folder."""
    try:
        files = external_files(onnx)
    except ValueError as error:
        raise BundleError(f"{_named(onnx)}: {error}") from error
    if files:
        raise BundleError(f"{_named(onnx)}: has weights in {files[0][:MOST_WORDS]!r}: refused")


def _session_options(first: str, threads: int | None, exact_int8: bool) -> Any:
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 3
    if first == CPU:
        # A plan and a block of memory for each size of batch ever seen. Without: some 10 % less memory after
        # batches of all sizes, in the same time.
        options.enable_mem_pattern = False
    else:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if exact_int8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _session_on(
    first: str, source: bytes | str, options: Any, asked: list[tuple[str, dict[str, Any]]]
) -> Any:
    """The session, if `first` runs the student: onnxruntime by itself would use the CPU without an error."""
    try:
        session = import_onnxruntime().InferenceSession(source, options, providers=asked, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ProviderError(f"{first} cannot run here: {no_device(first, str(error))}") from error
    if session.get_providers()[0] != first:
        raise ProviderError(f"{first} cannot run here: {no_device(first, '')}")
    # a provider can be the first of the session's list and still run nothing
    runs = {part.ep_name for part in getattr(session, ASSIGNMENT)()}
    if runs and first not in runs:
        raise ProviderError(
            f"{first} cannot run this student: it supports none of its operators, {', '.join(sorted(runs))} "
            f"would run it; {available()}"
        )
    return session
