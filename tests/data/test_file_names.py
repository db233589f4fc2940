"""What is an image, and names of any kind: hidden, in two forms of Unicode, of any bytes, with markup."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vl2v_deploy.cli.main import cli
from vl2v_deploy.client.images import TRUSTED, holds_image
from vl2v_deploy.client.preprocess import open_rgb, pixels_from_source
from vl2v_deploy.data.domains import DomainSet, data_fingerprint, load_domains
from vl2v_deploy.data.files import image_files
from vl2v_deploy.data.notices import folder_notices
from vl2v_deploy.data.unlabelled import load_unlabelled
from vl2v_deploy.errors import BadImagesError, DataError, ImageError, RecipeError
from vl2v_deploy.names import command
from vl2v_deploy.recipe import DataRecipe, load_recipe
from vl2v_deploy.terminal import new_console

PACKAGE = Path(__file__).parents[2] / "vl2v_deploy"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))


def load(root: Path, *, skip_bad: bool = False, **options: object) -> DomainSet:
    data = DataRecipe.model_validate({"root": str(root), "target": "photo"} | options)
    return load_domains(data, skip_bad=skip_bad)


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


OF_CONTENT = {
    "a.avif": "AVIF",
    "b.jp2": "JPEG2000",
    "c.ppm": "PPM",
    "d.jfif": "JPEG",
    "e.JPE": "JPEG",
    "no_suffix": "PNG",
    "f.cache": "WEBP",
    "g.pgm": "PPM",
}


def test_images_have_one_rule_whatever_their_names(domain_folder: Path) -> None:
    folder = domain_folder / "ink/circle"
    for seed, (name, format) in enumerate(OF_CONTENT.items()):
        noise(seed).save(folder / name, format=format)
    (folder / "notes.txt").write_text("P6 is no image here")
    (folder / "empty").write_bytes(b"")
    (folder / "drawing.svg").write_text("<svg/>")
    (domain_folder / "ink/stray.png").write_bytes((folder / "0.png").read_bytes())
    (domain_folder / "README.md").write_text("about")
    domain_set = load(domain_folder)
    found = {sample.path.name for sample in domain_set.samples if sample.path.parent == folder}
    assert found == OF_CONTENT.keys() | {f"{number}.png" for number in range(10)}
    assert set(domain_set.unused) == {
        *("ink/circle/notes.txt", "ink/circle/empty", "ink/circle/drawing.svg", "ink/stray.png"),
    }
    [notice] = folder_notices(domain_set)
    assert "4 file(s) are not used" in notice and "1 .svg" in notice and "1 without a suffix" in notice
    # distill's other reader of folders, and predict's of files, agree
    unlabelled = load_unlabelled(DataRecipe(root="x", target="y", unlabelled=(str(folder),)))
    assert {sample.path.name for sample in unlabelled.samples} == found and len(unlabelled.unused) == 3
    for name in sorted(found):
        assert pixels_from_source(folder / name, 16, TRUSTED).shape == (16, 16, 3)
    for name in ("notes.txt", "empty", "drawing.svg"):
        with pytest.raises(ImageError):
            open_rgb(folder / name)


def test_hidden_names_are_no_data(domain_folder: Path) -> None:
    before = load(domain_folder)
    for hidden in ("ink/circle/.ipynb_checkpoints", "ink/circle/.thumbnails", ".git", "__MACOSX/ink/circle"):
        (domain_folder / hidden).mkdir(parents=True)
        noise(1).save(domain_folder / hidden / "0.png")
    (domain_folder / "ink/circle/._0.png").write_bytes(b"Mac OS X        ")
    (domain_folder / "ink/__MACOSX").mkdir()
    assert load(domain_folder) == before and not before.unused


def test_domainbed_has_torchvisions_names(domain_folder: Path) -> None:
    folder = domain_folder / "ink/circle"
    noise(0).save(folder / "a.avif", format="AVIF")
    noise(1).save(folder / "no_suffix", format="PNG")
    noise(2).save(folder / ".hidden.png")
    (folder / ".thumbnails").mkdir()
    noise(3).save(folder / ".thumbnails/0.png")
    domain_set = load(domain_folder, split="domainbed")
    found = {s.path.relative_to(folder).as_posix() for s in domain_set.samples if folder in s.path.parents}
    assert found == {*(f"{number}.png" for number in range(10)), ".hidden.png", ".thumbnails/0.png"}
    assert set(domain_set.unused) == {"ink/circle/a.avif", "ink/circle/no_suffix"}


def test_what_is_named_as_an_image_must_be_one(domain_folder: Path) -> None:
    (domain_folder / "ink/circle/x.avif").write_text("text")
    with pytest.raises(BadImagesError) as caught:
        load(domain_folder)
    assert [Path(path).name for path, _ in caught.value.problems] == ["x.avif"]


def test_an_image_that_has_no_rgb_is_bad_before_training_and_named(domain_folder: Path) -> None:
    """It decodes; only making it RGB shows that it cannot be used."""
    bad = domain_folder / "ink/circle/float.tiff"
    Image.fromarray(np.ones((8, 8), np.float32)).save(bad)
    with pytest.raises(BadImagesError) as caught:
        load(domain_folder)
    [(path, reason)] = caught.value.problems
    assert path == str(bad) and "float" in reason
    with pytest.raises(ImageError, match=r"float\.tiff"):
        open_rgb(bad)
    assert load(domain_folder, skip_bad=True).skipped == ("ink/circle/float.tiff",)


def test_a_pipe_is_not_waited_for(domain_folder: Path) -> None:
    os.mkfifo(domain_folder / "ink/circle/pipe")
    os.mkfifo(domain_folder / "ink/circle/pipe.png")
    assert not holds_image(domain_folder / "ink/circle/pipe")
    with pytest.raises(BadImagesError, match=r"pipe\.png: cannot be read: is not a regular file"):
        load(domain_folder)


def test_file_names_of_any_bytes(domain_folder: Path) -> None:
    folder = domain_folder / "ink/circle"
    names = [b"caf\xe9.png", b"new\nline.png", b"tab\t\x1b[31m.png", "日本[bold].png".encode()]
    for seed, name in enumerate(names):
        noise(seed).save(folder / "x.png")
        (folder / "x.png").rename(folder / os.fsdecode(name))
    domain_set = load(domain_folder)
    assert len(domain_set.samples) == 64 and len(data_fingerprint(domain_set)) == 64
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(b"damaged")
    with pytest.raises(BadImagesError) as caught:
        load(domain_folder)
    str(caught.value).encode()  # a terminal can take it
    assert len(str(caught.value).splitlines()) == 5 and "caf\\xe9.png" in str(caught.value)
    skipped = load(domain_folder, skip_bad=True).skipped
    assert "ink/circle/new\\x0aline.png" in skipped and all(name.isprintable() for name in skipped)


def test_names_of_any_bytes_are_printed_without_a_traceback(domain_folder: Path) -> None:
    (domain_folder / "ink/circle" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"damaged")
    done = subprocess.run(
        [sys.executable, "-m", "vl2v_deploy", "init", str(domain_folder)],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr and b"caf\\xe9.png" in done.stderr


def test_folder_names_that_no_recipe_can_hold_are_refused(domain_folder: Path) -> None:
    for name in (b"caf\xe9", b"two\nlines"):
        odd = domain_folder / "ink" / os.fsdecode(name)
        odd.mkdir()
        with pytest.raises(DataError, match="rename it"):
            load(domain_folder)
        odd.rmdir()


def test_names_in_two_forms_of_unicode_are_one(domain_folder: Path) -> None:
    composed, apart = "café", unicodedata.normalize("NFD", "café")
    for domain, name in (("ink", composed), ("paint", apart), ("photo", apart)):
        (domain_folder / domain / "circle").rename(domain_folder / domain / name)
    domain_set = load(domain_folder, classes=["square", apart], class_names={apart: "coffee house"})
    assert domain_set.classes == ("square", composed) and len(domain_set.samples) == 60
    (domain_folder / "photo").rename(domain_folder / unicodedata.normalize("NFD", "größe"))
    for target in ("größe", unicodedata.normalize("NFD", "größe")):
        assert set(load(domain_folder, target=target).domains) == {"ink", "paint", "größe"}
    (domain_folder / "ink" / apart).mkdir()
    with pytest.raises(DataError, match="writes in two ways"):
        load(domain_folder, target="größe")


def test_file_names_in_two_forms_have_one_split(domain_folder: Path) -> None:
    sides = []
    for form in ("NFC", "NFD"):
        root = domain_folder.parent / form
        shutil.copytree(domain_folder, root)
        for image in sorted((root / "ink/circle").iterdir()):
            image.rename(image.with_name(unicodedata.normalize(form, f"é{image.name}")))
        domain_set = load(root)
        sides.append({domain_set.name(s): s.split for s in domain_set.samples})
    assert sides[0] == sides[1]


RECIPE = """
data: {root: data, target: photo}
teacher: {model: ViT-B-16, pretrained: openai}
student: {backbone: resnet50}
"""


@pytest.mark.parametrize(
    "setting",
    ["data.target=1", "data.target=no", "data.classes=[yes, no]", "data.class_names={1: one}"],
)
def test_numeric_and_yes_no_names_say_quote_it(tmp_path: Path, setting: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    with pytest.raises(RecipeError, match="quote it"):
        load_recipe(file, [setting])
    quoted = {"data.target=1": 'data.target="1"', "data.target=no": "data.target='no'"}.get(setting)
    if quoted:
        assert load_recipe(file, [quoted]).data.target in ("1", "no")


def test_numeric_names_go_through_init(domain_folder: Path, tmp_path: Path) -> None:
    for domain, name in (("ink", "1"), ("paint", "no"), ("photo", "[red]😀: #x")):
        (domain_folder / domain).rename(domain_folder / name)
    out = tmp_path / "my recipe.yaml"
    done = CliRunner().invoke(cli, ["init", str(domain_folder), "--target", "no", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert command("distill", out) in done.output and "'" in command("distill", out)
    assert load_recipe(out).data.target == "no"
    done = CliRunner().invoke(cli, ["init", str(domain_folder), "--target", "[red]😀: #x", "--out", str(out)])
    assert "exists already" in done.output
    done = CliRunner().invoke(
        cli, ["init", str(domain_folder), "--target", "[red]😀: #x", "--out", str(out), "--overwrite"]
    )
    assert load_recipe(out).data.target == "[red]😀: #x"


def test_init_takes_the_options_that_it_advises(domain_folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(domain_folder / "ink/circle/0.png", domain_folder / "ink/square/wrong.png")
    (domain_folder / "ink/triangle").mkdir()
    out = tmp_path / "r.yaml"

    def init(*options: str) -> str:
        done = CliRunner().invoke(cli, ["init", str(domain_folder), "--out", str(out), *options])
        assert done.exit_code in (0, 1) and not isinstance(done.exception, AttributeError)
        return done.output

    assert "--skip-bad" in init()
    assert "--class" in init("--skip-bad")
    chosen = ("--class", "square", "--class", "circle")
    assert "--skip-bad" in init(*chosen)
    assert "--skip-bad" in init(*chosen, "--skip-bad")
    assert load_recipe(out).data.classes == ("square", "circle")
    init(*chosen, "--allow-duplicates", "--overwrite")
    assert load_recipe(out).data.split.duplicates == "allow"


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    new_console().print("[/bold] [red]x[/] :smile: [link=x]")
    assert capsys.readouterr().out == "[/bold] [red]x[/] :smile: [link=x]\n"


def test_every_console_takes_names_as_they_are() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "terminal.py"]
    assert len(files) > 100
    for path in files:
        text = path.read_text(encoding="utf-8")
        for made in ("Console(", "rich.print", "from rich import print"):
            assert made not in text.replace("new_console(", ""), f"{path}: {made}: use terminal.new_console"


def test_commands_to_copy_are_quoted_for_the_shell() -> None:
    for out in ("my run", "a;b", "it's", "-x", "$HOME"):
        words = subprocess.run(
            ["sh", "-c", f"set -- {command('export', Path(out))}; printf '%s\\n' \"$@\""],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert words == ["vl2v-deploy", "export", f"./{out}" if out[0] == "-" else out]


def test_listing_of_a_folder_is_torchvisions_order(domain_folder: Path) -> None:
    from torchvision.datasets import ImageFolder

    nested = domain_folder / "ink/circle/more"
    nested.mkdir()
    for seed in range(3):
        noise(seed).save(nested / f"{seed}.png")
    theirs = [Path(path) for path, label in ImageFolder(domain_folder / "ink").samples if label == 0]
    assert image_files(domain_folder / "ink/circle", "torchvision").images == theirs
