"""A bundle's signature, by OpenSSF model-signing with a key of one's own: `export --sign`, `verify --key`.

The signature is model.sig inside the bundle. It covers the name and hash of every other file there, so that a
file which was changed, added or removed shows; SHA256SUMS alone shows accidents, as anyone can write it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vl2v_deploy.errors import BundleError, ExportError, MissingExtra, VL2VError, one_line
from vl2v_deploy.names import shown

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing

SIGNATURE = "model.sig"
EXTRA = "sign"
HOW_TO_MAKE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
# What model-signing says of a bundle that is not as signed; the names are all that a reader needs of it.
_OTHER_FILES = re.compile(r"(Extra|Missing) files[^']*'[^']*': ([^\"\]]*)")
_OTHER_CONTENT = re.compile(r"Hash mismatch for \\?'([^'\\]*)")


def require_signer(key: Path) -> None:
    """What is wrong with a private key, before the minutes that an export takes.

    Raises MissingExtra without model-signing, ExportError for a key that cannot be used.
    """
    _signer(key)


def sign_bundle(bundle: Path, key: Path) -> Path:
    """Sign every file of a finished bundle; the file of the signature.

    key: private key on an elliptic curve, PEM, without a password

    Raises what `require_signer` raises, ExportError for a bundle that cannot be signed.
    """
    signer = _signer(key)
    file = bundle / SIGNATURE
    file.unlink(missing_ok=True)
    with _told(ExportError, f"{shown(bundle)}: cannot be signed"):
        signer.set_hashing_config(_hashing()).sign(bundle, file)
    return file


def require_signed(bundle: Path, key: Path) -> None:
    """BundleError unless the bundle is, file by file, what the key's owner signed.

    bundle: its folder
    key:    public key on an elliptic curve, PEM

    Raises MissingExtra without model-signing.
    """
    with _with_extra():
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
    with _told(BundleError, f"{shown(key)}: is no public key on an elliptic curve in PEM"):
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    if not bundle.is_dir():
        raise BundleError(f"{shown(bundle)}: a signature is of a folder: unpack it first")
    if not (bundle / SIGNATURE).is_file():
        raise BundleError(f"{shown(bundle)}: holds no {SIGNATURE}: it is not signed; see export --sign")
    try:
        verifier.set_hashing_config(_hashing()).verify(bundle, bundle / SIGNATURE)
    except InvalidSignature as error:
        raise BundleError(
            f"{shown(bundle / SIGNATURE)}: was changed, or is not by the owner of {shown(key)}"
        ) from error
    except Exception as error:  # of model-signing and the libraries below it, with no common base
        raise BundleError(f"{shown(bundle)}: is not as it was signed: {_what_differs(error)}") from error


def _hashing() -> Hashing:
    """All files but the signature; a link in a bundle is an error, not followed."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _signer(key: Path) -> Any:
    with _with_extra():
        from model_signing import signing
    with _told(
        ExportError,
        f"--sign {shown(key)}: expected a private key on an elliptic curve in PEM, without a password "
        f"({HOW_TO_MAKE})",
    ):
        return signing.Config().use_elliptic_key_signer(private_key=key)


@contextmanager
def _with_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), EXTRA) from error


@contextmanager
def _told(kind: type[VL2VError], what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or error}") from error
    except Exception as error:  # of model-signing and the libraries below it, with no common base
        raise kind(f"{what}: {one_line(error)}") from error


def _what_differs(error: Exception) -> str:
    """The files that are not as signed, from model-signing's message; else the message.

    >>> _what_differs(ValueError("[\\"Hash mismatch for 'a': Expected 'x', Actual 'y'\\"]"))
    'changed: a'
    """
    said, words = str(error), {"Extra": "added", "Missing": "missing"}
    found = [f"changed: {name}" for name in _OTHER_CONTENT.findall(said)]
    found += [f"{words[kind]}: {files}" for kind, files in _OTHER_FILES.findall(said)]
    return "; ".join(map(shown, found)) or one_line(error)
