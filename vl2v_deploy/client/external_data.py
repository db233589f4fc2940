"""Which other files an ONNX file has its weights in, read from its protobuf without the onnx package.

onnxruntime opens whatever a tensor's `external_data` names. What is checked here is the name of every such
file in the graph, its subgraphs, functions and attributes, dense and sparse, before it does.
Fields by number, as onnx.proto of ONNX 1.20 has them; numbers never change in a protobuf format.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["model", "graph", "node", "attribute", "function", "training", "tensor", "sparse"]
# Of each message, the fields that hold others in which tensors may be.
_HELD: dict[Kind, dict[int, Kind]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_KEY, _VALUE = 1, 2  # of an entry of external_data
_MOST_FIELDS = 2_000_000  # an ordinary student has some 20,000
_MOST_DEPTH = 64
_ORT_FLATBUFFER = b"ORTM"  # bytes 4 to 7 of onnxruntime's own format
_Bytes: TypeAlias = bytes | mmap.mmap


def external_files(onnx: Path | bytes) -> tuple[str, ...]:
    """The locations that an ONNX file's tensors name, as they stand there; "" for one that names none.

    Raises ValueError when it is not a protobuf or beyond bounds, OSError when it cannot be read.
    """
    if isinstance(onnx, bytes):
        return _locations(onnx)
    with onnx.open("rb") as file:
        if not file.read(1):
            raise ValueError("is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _locations(mapped)


def _locations(data: _Bytes) -> tuple[str, ...]:
    if data[4:8] == _ORT_FLATBUFFER:
        raise ValueError("is of onnxruntime's own format, not ONNX")
    if data.find(b"location") < 0:  # the key of every entry that names a file: most files hold none
        return ()
    found: dict[str, None] = {}
    opened: list[tuple[Kind, int, int, int]] = [("model", 0, len(data), 0)]
    read = 0
    while opened:
        kind, start, end, depth = opened.pop()
        if depth > _MOST_DEPTH:
            raise ValueError(f"nests deeper than {_MOST_DEPTH} messages")
        held, is_tensor = _HELD[kind], kind == "tensor"
        is_external = False
        names: list[str] = []
        for number, value, first, last in _fields(data, start, end):
            read += 1
            if read > _MOST_FIELDS:
                raise ValueError(f"has more than {_MOST_FIELDS:,} fields")
            if first is not None and number in held:
                opened.append((held[number], first, last, depth + 1))
            elif is_tensor and number == _EXTERNAL_DATA and first is not None:
                is_external = True
                names += _location_of_entry(data, first, last)
            elif is_tensor and number == _DATA_LOCATION:
                is_external = is_external or value != 0
        if is_external:
            found |= dict.fromkeys(names or [""])
    return tuple(found)


def _location_of_entry(data: _Bytes, start: int, end: int) -> list[str]:
    """The value of an entry whose key is location."""
    key, value = b"", b""
    for number, _, first, last in _fields(data, start, end):
        if first is not None and number == _KEY:
            key = data[first:last]
        elif first is not None and number == _VALUE:
            value = data[first:last]
    return [value.decode("utf-8", "backslashreplace")] if key == b"location" else []


def _fields(data: _Bytes, place: int, end: int) -> Iterator[tuple[int, int, int | None, int]]:
    """Of each field of a message: its number, and the number it holds or the range of the bytes it holds."""
    while place < end:
        tag, place = _varint(data, place, end)
        if tag >= 1 << 32:  # other readers may drop the higher bits, and find another field
            raise ValueError(f"is not a protobuf of ONNX: field {tag >> 3} at byte {place}")
        value = 0
        first: int | None = None
        match tag & 7:
            case 0:
                value, place = _varint(data, place, end)
            case 1:
                place += 8
            case 2:
                length, first = _varint(data, place, end)
                place = first + length
            case 5:
                place += 4
            case wire:
                raise ValueError(f"is not a protobuf of ONNX: wire type {wire} at byte {place}")
        if place > end:
            raise ValueError(f"is not a protobuf of ONNX: ends within a field, at byte {end}")
        yield tag >> 3, value, first, place


def _varint(data: _Bytes, place: int, end: int) -> tuple[int, int]:
    """A number in base 128, lowest digit first, and the place after it."""
    number = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
    raise ValueError(f"is not a protobuf of ONNX: a number does not end, at byte {place}")
