"""onnxruntime-web for the page: from npm, from a folder, or from a public server when the page is opened."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import files as files_of_package
from pathlib import Path

from vl2v_deploy.errors import ExportError

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
NPM_TIMEOUT_S = 600
# provider -> the module, and the WebAssembly that it loads
FILES: Mapping[str, tuple[str, str]] = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}


@dataclass(frozen=True)
class RuntimeFiles:
    """Addresses of a provider's script and WebAssembly. bytes: of the latter; None where it is not copied."""

    script: str
    binary: str
    bytes: int | None = None


@dataclass(frozen=True)
class WebRuntime:
    """onnxruntime-web as the page finds it."""

    version: str
    wasm: RuntimeFiles
    webgpu: RuntimeFiles


def require_runtime(choice: str) -> None:
    """ExportError when `choice` cannot be had; to be asked before a long export.

    choice: vendor, cdn, or a folder
    """
    if choice == "cdn":
        return
    if choice == "vendor":
        if shutil.which("npm") is None:
            raise ExportError(
                f"--web-runtime vendor: npm is not installed, which fetches onnxruntime-web {VERSION}; "
                "install Node.js, or pass --web-runtime cdn, or a folder that holds the package's dist files"
            )
        return
    folder = Path(choice)
    if not folder.is_dir():
        raise ExportError(f"--web-runtime {choice}: expected vendor, cdn, or a folder of onnxruntime-web")
    for name in (name for pair in FILES.values() for name in pair):
        if not (folder / name).is_file():
            raise ExportError(
                f"--web-runtime {choice}: holds no {name}; pass the folder dist of npm's package "
                f"onnxruntime-web {VERSION}"
            )


def write_runtime(choice: str, folder: Path) -> WebRuntime:
    """Where the page finds the runtime, which is copied there where it is to be.

    choice: vendor, cdn, or a folder
    folder: of the page; copied files go to its folder runtime/

    Raises ExportError when npm fails, or what it brings is not the package that this version was tested with.
    """
    if choice == "cdn":
        return WebRuntime(VERSION, **{name: _files(CDN, FILES[name]) for name in FILES})
    require_runtime(choice)
    into = folder / "runtime"
    into.mkdir()
    if choice == "vendor":
        _unpack(into)
    else:
        for source, name in _copies():
            shutil.copyfile(Path(choice) / source, into / name)
    _write_licence(into)
    served = {provider: _served(pair) for provider, pair in FILES.items()}
    version = _version_of(into / served["wasm"][0])
    return WebRuntime(version, **{name: _files("runtime/", pair, into) for name, pair in served.items()})


def _served(pair: tuple[str, str]) -> tuple[str, str]:
    """Names on the page's server: older servers do not know that .mjs is JavaScript."""
    script, binary = pair
    return Path(script).with_suffix(".js").name, binary


def _copies() -> list[tuple[str, str]]:
    return [both for pair in FILES.values() for both in zip(pair, _served(pair), strict=True)]


def _files(base: str, pair: tuple[str, str], copied_to: Path | None = None) -> RuntimeFiles:
    script, binary = pair
    size = (copied_to / binary).stat().st_size if copied_to else None
    return RuntimeFiles(base + script, base + binary, size)


def _unpack(into: Path) -> None:
    """Copy the files of npm's package, which must be the very one that was tested."""
    with tempfile.TemporaryDirectory() as temporary:
        tarball = _fetched(Path(temporary))
        found = integrity_of(tarball)
        if found != INTEGRITY:
            raise ExportError(
                f"onnxruntime-web {VERSION} from npm: integrity is {found[:19]}..., expected "
                f"{INTEGRITY[:19]}...: the registry gave another package; see `npm config get registry`"
            )
        with tarfile.open(tarball) as package:
            for source, name in _copies():
                member = package.extractfile(f"package/dist/{source}")
                assert member is not None  # the integrity says so
                (into / name).write_bytes(member.read())


def integrity_of(file: Path) -> str:
    """As npm writes it: SHA-512, in base64."""
    digest = hashlib.sha512(file.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode('ascii')}"


def _fetched(folder: Path) -> Path:
    npm = shutil.which("npm")
    assert npm is not None  # require_runtime has looked
    command = [
        npm,
        "pack",
        f"onnxruntime-web@{VERSION}",
        "--ignore-scripts",
        "--pack-destination",
        str(folder),
    ]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"npm pack onnxruntime-web@{VERSION}: not done after {NPM_TIMEOUT_S} s") from error
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        errors = [line for line in done.stderr.splitlines() if re.match(r"npm (error|ERR!)", line)]
        why = errors[0] if errors else f"exit {done.returncode}"
        raise ExportError(
            f"npm pack onnxruntime-web@{VERSION}: failed: {why}; "
            "pass --web-runtime cdn, or a folder that holds the package's dist files"
        )
    return tarballs[0]


def _write_licence(into: Path) -> None:
    """onnxruntime's licence and notices, from its Python package: npm's holds none."""
    for path in files_of_package("onnxruntime") or ():
        if path.as_posix() in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
            shutil.copyfile(str(path.locate()), into / path.name)
    if not (into / "LICENSE").is_file():
        raise ExportError("onnxruntime's Python package holds no LICENSE to put beside the page's runtime")


def _version_of(script: Path) -> str:
    """As its first lines say."""
    found = re.search(r"ONNX Runtime Web v(\S+)", script.read_text(encoding="utf-8")[:200])
    if not found:
        raise ExportError(
            f"{script.name}: does not say which ONNX Runtime Web it is; pass npm's own dist files"
        )
    return found.group(1)
