"""preprocess.js against client/preprocess.py on the same decoded pixels: the same bytes, in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.helpers.browser import cannot
from vl2v_deploy.client.preprocess import preprocess
from vl2v_deploy.exporting.targets.web import PAGE

PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, folder] = process.argv.slice(1);
const { preprocess } = await import(module);
JSON.parse(readFileSync(`${folder}/cases.json`)).forEach(([width, height, sizePx], index) => {
  const data = readFileSync(`${folder}/${index}.rgba`);
  writeFileSync(`${folder}/${index}.rgb`, preprocess({ width, height, data }, sizePx));
});
"""
# width, height, S: enlarged, shrunk, thin, tall (which Pillow 13 shrinks the other way first), several strips
CASES = [
    (1, 1, 7),
    (1, 40, 32),
    (13, 2, 32),
    (96, 96, 96),
    (97, 96, 96),
    (96, 97, 96),
    (300, 224, 224),
    (3000, 2, 64),
    (2, 3000, 64),
    (1700, 1300, 224),
    (700, 1800, 96),
]


# answer.js
NOT_A_NUMBER = """
const { answerOf } = await import(process.argv[1]);
const abstained = [NaN, 1].map((first) => answerOf([first, 0], ["a", "b"], null).abstained);
process.stdout.write(JSON.stringify(abstained));
"""


def test_an_answer_that_is_no_number_abstains_in_javascript_too() -> None:
    node = shutil.which("node")
    if node is None:
        cannot("Node.js is not installed")
    command = [node, "--input-type=module", "--eval", NOT_A_NUMBER, "--", (PAGE / "answer.js").as_uri()]
    assert json.loads(subprocess.run(command, check=True, timeout=60, capture_output=True).stdout) == [
        True,
        False,
    ]


def rule_of_tall_images(width: int, height: int, size_px: int) -> bool:
    return height > size_px and height - size_px > 2 * (width - size_px)


def in_node(images: list[np.ndarray], sizes_px: list[int], folder: Path) -> list[np.ndarray]:
    node = shutil.which("node")
    if node is None:
        cannot("Node.js is not installed")
    cases = []
    for index, (image, size_px) in enumerate(zip(images, sizes_px, strict=True)):
        (folder / f"{index}.rgba").write_bytes(image.tobytes())
        cases.append((image.shape[1], image.shape[0], size_px))
    (folder / "cases.json").write_text(json.dumps(cases))
    module = (PAGE / "preprocess.js").as_uri()
    command = [node, "--input-type=module", "--eval", PROGRAM, "--", module, str(folder)]
    subprocess.run(command, check=True, timeout=600)
    return [
        np.fromfile(folder / f"{index}.rgb", np.uint8).reshape(size_px, size_px, 3)
        for index, size_px in enumerate(sizes_px)
    ]


@pytest.mark.parametrize("kind", ["noise", "black and white", "alpha"])
def test_the_same_bytes_as_pillow_at_any_size(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(["noise", "black and white", "alpha"].index(kind))
    cases = CASES + [(*map(int, rng.integers(1, 600, 2)), int(rng.choice([32, 96, 224]))) for _ in range(25)]
    images = []
    for width, height, _ in cases:
        image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if kind == "black and white":  # where a rounding that clips wrong would show
            image = (image > 127).astype(np.uint8) * 255
        if kind != "alpha":
            image[..., 3] = 255
        images.append(image)
    found = in_node(images, [size_px for _, _, size_px in cases], tmp_path)
    for case, image, square in zip(cases, images, found, strict=True):
        expected = preprocess(Image.fromarray(image), case[2])
        # Earlier Pillows squash across first whatever the shape.
        older = int(PIL.__version__.split(".")[0]) < 13 and rule_of_tall_images(*case)
        assert np.abs(square.astype(int) - expected).max() <= int(older), case


def test_every_colour_with_every_alpha_is_laid_on_white_as_by_pillow(tmp_path: Path) -> None:
    alpha, colour = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = np.stack([colour, colour, colour, alpha], -1)
    [square] = in_node([image], [256], tmp_path)
    assert (square == preprocess(Image.fromarray(image), 256)).all()
