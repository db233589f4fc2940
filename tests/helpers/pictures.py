"""Images of every format, for a student to be asked about by programs in Python and JavaScript."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vl2v_deploy.data.emojidg import emojidg_root


def pictures(folder: Path) -> dict[str, Path]:
    """One image in each of many formats; name -> file. Those called photo have a camera's noise and size."""
    emoji = (
        Image.open(sorted((emojidg_root() / "noto/mammal").iterdir())[0]).convert("RGB").resize((150, 120))
    )
    alpha = emoji.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(emoji.size))
    deep = Image.fromarray(np.asarray(emoji.convert("L"), np.uint16) * 257)
    gamma = PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))  # a browser would darken it unless told not to
    photo, turned = _photo(emoji, (1600, 1200)), Image.Exif()
    turned[0x0112] = 6
    saved = {
        "png": (emoji, "png", {}),
        "png alpha": (alpha, "png", {}),
        "png palette": (emoji.quantize(16), "png", {}),
        "png transparent colour": (emoji.quantize(16), "png", {"transparency": 0}),
        "png grey": (emoji.convert("L"), "png", {}),
        "png grey alpha": (alpha.convert("LA"), "png", {}),
        "png 16-bit grey": (deep, "png", {}),
        "png gamma": (emoji, "png", {"pnginfo": gamma}),
        "png tall": (emoji.resize((120, 900)), "png", {}),
        "gif": (emoji.quantize(64), "gif", {}),
        "webp lossless": (emoji, "webp", {"lossless": True}),
        "webp alpha": (alpha, "webp", {"lossless": True, "exact": True}),
        "webp": (emoji, "webp", {"quality": 80}),
        "jpeg": (emoji, "jpeg", {"quality": 85}),
        "jpeg 4:4:4": (emoji, "jpeg", {"quality": 85, "subsampling": 0}),
        "jpeg grey": (emoji.convert("L"), "jpeg", {"quality": 85}),
        "jpeg progressive": (emoji, "jpeg", {"quality": 85, "progressive": True}),
        "jpeg turned": (emoji, "jpeg", {"quality": 85, "exif": turned}),
        "jpeg photo": (photo, "jpeg", {"quality": 88}),
        "jpeg photo turned": (photo, "jpeg", {"quality": 88, "exif": turned}),
        "webp photo": (photo, "webp", {"quality": 80}),
    }
    folder.mkdir()
    for name, (image, kind, options) in saved.items():
        image.save(folder / f"{name.replace(' ', '-').replace(':', '')}.{kind}", **options)
    return {name: folder / f"{name.replace(' ', '-').replace(':', '')}.{saved[name][1]}" for name in saved}


def _photo(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image enlarged, on a shaded ground, with a sensor's noise: what JPEG was made for."""
    rng = np.random.default_rng(0)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    shade = np.linspace(0.85, 1.0, size[0], dtype=np.float32)[None, :, None]
    return Image.fromarray((pixels * shade + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))
