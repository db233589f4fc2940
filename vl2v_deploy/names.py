"""Names of files, folders and classes: compared, shown to people, and put into shell commands.

A file's name may hold any bytes. Python keeps those that are no UTF-8 as lone surrogates, which neither
terminals nor JSON readers take: a name is passed through `shown` before it is printed or recorded.
"""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# Control characters, line and paragraph separators, surrogates.
_UNPRINTABLE = {"Cc", "Zl", "Zp", "Cs"}
# They turn the direction of what follows: a name could look like another, and spoil the rest of the line.
_TURNING = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def shown(name: str | Path) -> str:
    r"""A name as printable text on one line: control characters and bytes that are no UTF-8 are escaped.

    >>> shown("tab\t"), shown("caf\udce9.png"), shown("日本"), shown("two\u2028lines"), shown("\ud800")
    ('tab\\x09', 'caf\\xe9.png', '日本', 'two\\u2028lines', '\\ud800')
    """
    text = os.fspath(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python keeps it
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) not in _UNPRINTABLE and character not in _TURNING:
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def shortened(value: object, most: int = 80) -> str:
    """A value in a message: its repr on one line, cut where it is long.

    >>> shortened("cat"), shortened([1] * 1000, most=10)
    ("'cat'", '[1, 1, ...')
    """
    try:
        text = shown(repr(value))
    except (ValueError, RecursionError):  # Python writes out no integer of more than 4300 digits
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def composed(name: str) -> str:
    r"""The name in Unicode's composed form (NFC), in which two names that look the same are the same.

    macOS writes an e with an accent as two characters, Linux and Windows mostly as one.

    >>> composed("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def listed(names: Iterable[str | Path], most: int = 5) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    texts = [shown(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def command(*words: str | Path) -> str:
    """A vl2v-deploy command that a shell takes as it is printed, whatever is in its paths.

    >>> command("export", Path("runs/my run"))
    "vl2v-deploy export 'runs/my run'"
    >>> command("predict", Path("-v"))
    'vl2v-deploy predict ./-v'
    """
    texts = [f"./{word}" if isinstance(word, Path) and str(word)[:1] == "-" else str(word) for word in words]
    return shlex.join(["vl2v-deploy", *texts])


def name_below(path: Path, root: Path) -> str:
    """A path as it is recorded: below root where it lies there, in Unicode's composed form.

    >>> name_below(Path("data/ink/1.png"), Path("data"))
    'ink/1.png'
    """
    return composed((path.relative_to(root) if path.is_relative_to(root) else path).as_posix())
