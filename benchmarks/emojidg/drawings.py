"""Drawings of emoji from pinned npm packages: one reader for every style, 128 px on a white ground."""

import io
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from benchmarks.emojidg.concepts import bare_code, slug

SIZE_PX = 128


@dataclass(frozen=True)
class Package:
    """A pinned npm package and what its licence asks us to say."""

    name: str
    version: str
    author: str
    licence: str
    licence_url: str
    source: str


_FLUENT = "https://github.com/microsoft/fluentui-emoji"
_APACHE = "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE"
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "Miles Johnson",
    "MIT",
    "https://github.com/milesj/emojibase/blob/master/LICENSE",
    "https://github.com/milesj/emojibase",
)
# The five domains of EmojiDG.
DOMAINS: dict[str, Package] = {
    "fluent-3d": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "Microsoft Corporation (drawings), LobeHub (package)",
        "MIT",
        f"{_FLUENT}/blob/main/LICENSE",
        _FLUENT,
    ),
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "Google Inc",
        "Apache-2.0",
        _APACHE,
        "https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "Twitter, Inc and other contributors",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
        "https://github.com/jdecked/twemoji",
    ),
    "openmoji": Package(
        "@iconify-json/openmoji",
        "1.2.29",
        "OpenMoji (HfG Schwäbisch Gmünd)",
        "CC-BY-SA-4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
        "https://github.com/hfg-gmuend/openmoji",
    ),
    "fluent-high-contrast": Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "Microsoft Corporation",
        "MIT",
        f"{_FLUENT}/blob/main/LICENSE",
        _FLUENT,
    ),
}
# Styles that only the teacher sees: no image of them is in EmojiDG.
EXTRA_STYLES: dict[str, Package] = {
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "Microsoft Corporation",
        "MIT",
        f"{_FLUENT}/blob/main/LICENSE",
        _FLUENT,
    ),
    "noto-v1": Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "Google Inc",
        "Apache-2.0",
        _APACHE,
        "https://github.com/googlefonts/noto-emoji",
    ),
    "emojione": Package(
        "@iconify-json/emojione",
        "1.2.3",
        "Emoji One",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    "emojione-monotone": Package(
        "@iconify-json/emojione-monotone",
        "1.2.1",
        "Emoji One",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    "emojione-v1": Package(
        "@iconify-json/emojione-v1",
        "1.2.3",
        "Emoji One",
        "CC-BY-SA-4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
        "https://github.com/joypixels/emojione-legacy",
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "Mozilla",
        "Apache-2.0",
        "https://mozilla.github.io/fxemoji/LICENSE.md",
        "https://github.com/mozilla/fxemoji",
    ),
    "streamline-emojis": Package(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "Streamline",
        "CC-BY-4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "https://github.com/webalys-hq/streamline-vectors",
    ),
}


def install_packages(folder: Path, packages: Mapping[str, Package]) -> Path:
    """Folder `node_modules` that holds the pinned versions; asks npm only for what is not there yet.

    folder:   where npm installs; a folder that an earlier run filled is used as it is
    packages: the pinned packages, keyed by style

    Raises ValueError if a package is there in another version.
    """
    modules = folder / "node_modules"
    wanted = [EMOJIBASE, *packages.values()]
    missing = [f"{p.name}@{p.version}" for p in wanted if not (modules / p.name / "package.json").is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder)]
        subprocess.run(["npm", "install", *flags, *missing], check=True)
    for package in wanted:
        found = json.loads((modules / package.name / "package.json").read_text(encoding="utf-8"))["version"]
        if found != package.version:
            raise ValueError(f"{modules / package.name}: expected version {package.version}, got {found}")
    return modules


class Style:
    """Drawings of one style, looked up by an emoji's code (and its label where the package has no codes)."""

    def __init__(self, modules: Path, package: Package) -> None:
        self.folder = modules / package.name
        self.icons: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.squashed: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        if (self.folder / "icons.json").is_file():
            self.icons = json.loads((self.folder / "icons.json").read_text(encoding="utf-8"))
            chars = json.loads((self.folder / "chars.json").read_text(encoding="utf-8"))
            self.names = {bare_code(code): name for code, name in chars.items()}
            # Without codes a drawing is known by its name alone: 'wolfface', or the second 'pizza-2'.
            icons, other = self.icons["icons"], self.icons.get("aliases", {})
            self.squashed = {squash(name): name for name in sorted([*other, *icons], reverse=True)}
        else:
            self.files = {bare_code(path.stem): path for path in (self.folder / "assets").glob("*.webp")}

    def draw(self, code: str, label: str, size_px: int = SIZE_PX) -> Image.Image | None:
        """RGB picture of `size_px` on white, or None if this style has no drawing of the emoji."""
        if self.files:
            return _flatten(Image.open(self.files[code]), size_px) if code in self.files else None
        name = self.names.get(code) if self.names else self.squashed.get(squash(slug(label)))
        return self.draw_icon(name, size_px)

    def draw_icon(self, name: str | None, size_px: int = SIZE_PX) -> Image.Image | None:
        """RGB picture of the icon of that name on white, or None if there is none."""
        svg = self._svg(name) if name else None
        if svg is None:
            return None
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size_px, height=size_px, skip_system_fonts=True)
        return _flatten(Image.open(io.BytesIO(bytes(png))), size_px)

    def _svg(self, name: str) -> str | None:
        alias = self.icons.get("aliases", {}).get(name, {})
        if set(alias) - {"parent", "hidden"}:  # a rotated or mirrored alias is another emoji's drawing
            return None
        icon = self.icons["icons"].get(alias.get("parent", name))
        if icon is None or icon.get("hidden"):
            return None
        width = icon.get("width", self.icons.get("width", 16))
        height = icon.get("height", self.icons.get("height", 16))
        left, top = icon.get("left", 0), icon.get("top", 0)
        side = max(width, height)  # a square canvas: the drawing keeps its shape
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {namespaces} viewBox="{box}" width="{side}" height="{side}">{icon["body"]}</svg>'


def squash(name: str) -> str:
    """Letters and digits of an icon's name without a variant's number.

    >>> squash("pizza-2"), squash("wolf-face")
    ('pizza', 'wolfface')
    """
    return re.sub(r"[^a-z0-9]", "", re.sub(r"(?<=[a-z])-\d$", "", name))


def _flatten(picture: Image.Image, size_px: int) -> Image.Image:
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    flat = Image.alpha_composite(ground, layer).convert("RGB")
    if flat.size == (size_px, size_px):
        return flat
    return flat.resize((size_px, size_px), Image.Resampling.LANCZOS)


def is_blank(picture: Image.Image) -> bool:
    """Whether less than 1 % of the picture differs visibly from the white ground."""
    histogram = picture.convert("L").histogram()
    return sum(histogram[:240]) < 0.01 * picture.width * picture.height
