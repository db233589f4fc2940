"""A small but real student for pages and programs in JavaScript, and images of every format to ask about."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vl2v_deploy.cli.main import cli
from vl2v_deploy.data.emojidg import emojidg_root

RUNTIME = Path(__file__).parents[1] / "web/node_modules/onnxruntime-web/dist"
DOMAINS = ("fluent-3d", "noto", "fluent-high-contrast")
RECIPE = """
data: {{root: {data}, target: fluent-high-contrast}}
teacher: {{model: "builtin:emojidg-teacher"}}
student: {{backbone: tf_efficientnet_lite0, weights: builtin, image_size_px: 96}}
align: {{steps: 40, batch_per_domain: 16, learning_rate: 1.0e-3, evaluate_every: 10}}
distill: {{steps: 2, batch_per_domain: 4, learning_rate: 1.0e-4}}
"""


@functools.cache
def exported_site(folder: Path) -> tuple[Path, Path]:
    """Bundle (fp32, int8) and page of a student of twelve classes, both made by the command line.

    folder: the session's; they are made once in it
    """
    data = folder / "web-data"
    for domain in DOMAINS:
        for name in sorted((emojidg_root() / domain).iterdir()):
            (data / domain / name.name).mkdir(parents=True)
            for path in sorted(name.iterdir())[:10]:
                shutil.copy(path, data / domain / name.name)
    recipe = folder / "web.yaml"
    recipe.write_text(RECIPE.format(data=data), encoding="utf-8")
    bundle, site = folder / "web-bundle", folder / "web-site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VL2V_DEPLOY_CACHE", str(folder / "web-cache"))
        _run("distill", recipe, "--out", folder / "web-run")
        options = ("--precision", "fp32,int8", "--calibration-images", 32, "--max-accuracy-drop", 100)
        web = ("--web", site, "--web-runtime", RUNTIME)
        _run("export", folder / "web-run", "--out", bundle, *options, *web)
    return bundle, site


def _run(*arguments: object) -> None:
    done = CliRunner().invoke(cli, [str(each) for each in arguments])
    if done.exception:
        raise done.exception


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
