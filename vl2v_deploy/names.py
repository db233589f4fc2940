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


def shown(name: str | Path) -> str:
    r"""A name as printable text: control characters and bytes that are no UTF-8 are escaped.

    >>> shown("tab\t"), shown("caf\udce9.png"), shown("日本")
    ('tab\\x09', 'caf\\xe9.png', '日本')
    """
    text = os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" else c for c in text)


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
