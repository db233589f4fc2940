"""Folders of processes that are killed at any moment, or share them, and folders that are somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vl2v_deploy.errors import RunError
from vl2v_deploy.folders import claim_folder, partial_of, scratch_folder, start_folder, whole_folder

ROOT = Path(__file__).parents[2]
# Kills itself before the call of that number that changes a folder, a rename or a deletion.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from vl2v_deploy.folders import scratch_folder, whole_folder
made_in = {"whole": whole_folder, "scratch": scratch_folder}[sys.argv[3]]
out, left = Path(sys.argv[1]), int(sys.argv[2])
def counted(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapped
Path.rename, shutil.rmtree, Path.mkdir = counted(Path.rename), counted(shutil.rmtree), counted(Path.mkdir)
Path.unlink, Path.open = counted(Path.unlink), counted(Path.open)
with made_in(out) as partial:
    with open(partial / "content", "w") as file:
        file.write("new")
    if made_in is scratch_folder:
        (partial / "content").replace(out)
"""


def replace_and_die(out: Path, after: int, made_in: str = "whole") -> bool:
    """Whether it was killed; else it was done before it came to that."""
    command = [sys.executable, "-c", KILLED, str(out), str(after), made_in]
    return subprocess.run(command, cwd=ROOT, check=False).returncode < 0


def content(folder: Path) -> str | None:
    return (folder / "content").read_text() if folder.exists() else None


def test_a_kill_at_any_moment_leaves_no_scratch_folder_for_good(tmp_path: Path) -> None:
    for after in range(30):
        out = tmp_path / str(after) / "out"
        killed = replace_and_die(out, after, "scratch")
        with scratch_folder(out) as living, scratch_folder(out) as scratch:
            assert living.is_dir()  # one that is being used is left alone
            (scratch / "content").write_text("newest")
            (scratch / "content").replace(out)
        assert out.read_text() == "newest"
        left = [path for path in out.parent.iterdir() if path != out and any(path.iterdir())]
        assert not left  # but for an empty folder that was killed before it had our mark
        if not killed:
            break
    else:
        pytest.fail("it never came to its end")
    assert after > 3


@pytest.mark.parametrize("existing", [True, False])
def test_a_kill_at_any_moment_leaves_a_folder_that_can_be_written_again(
    tmp_path: Path, existing: bool
) -> None:
    seen = set()
    for after in range(100):
        out = tmp_path / str(after) / "out"
        if existing:
            out.mkdir(parents=True)
            (out / "content").write_text("old")
        killed = replace_and_die(out, after)
        seen.add(content(out))
        with whole_folder(out) as partial:
            assert content(out) == ("old" if existing else None) or content(out) == "new"
            assert [path.name for path in partial.iterdir()] == [".owner"]
            (partial / "content").write_text("newest")
        assert content(out) == "newest"
        assert [path.name for path in out.iterdir()] == ["content"]
        assert not partial_of(out).exists()
        assert not list(out.parent.glob("*.replaced"))
        left = [path for path in out.parent.iterdir() if path != out and any(path.iterdir())]
        assert not left  # but for an empty folder that was killed before it had our mark
        if not killed:
            break
    else:
        raise AssertionError("it was always killed")
    assert seen == {"old" if existing else None, "new"} | ({None} if existing else set())
    assert after > 5


@pytest.mark.parametrize("name", ["out.replaced", "out.partial", ".out.0123456789ab.replaced"])
def test_a_folder_without_our_mark_survives_every_kill(tmp_path: Path, name: str) -> None:
    theirs, out = tmp_path / name, tmp_path / "out"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("42")
    (theirs / "recipe.yaml").touch()
    (theirs / ".owner").write_text("a colleague")
    for _ in range(2):  # without an old folder, then with one
        try:
            with whole_folder(out) as partial:
                (partial / "content").write_text("new")
        except RunError as error:
            assert name == "out.partial" and "not made here" in str(error)
    replace_and_die(out, 3)
    assert (theirs / "thesis.txt").read_text() == "42"
    assert len(list(theirs.iterdir())) == 3
    assert out.exists() is (name != "out.partial")


def test_an_owner_file_of_the_users_in_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".owner").write_text("a colleague")
    with pytest.raises(ValueError, match="boom"), whole_folder(out):
        raise ValueError("boom")
    assert (out / ".owner").read_text() == "a colleague"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


HOLDS = """
import sys, time
from pathlib import Path
from vl2v_deploy.folders import start_folder
print(start_folder(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(partial_of(tmp_path / "out"))
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_folder_belongs_to_its_process_until_a_kill(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    out = tmp_path / "out"
    for claim in (start_folder, lambda path: claim_folder(partial_of(path))):
        with pytest.raises(RunError, match=f"process {writer.pid} is writing it"):
            claim(out)
    (partial_of(out) / "content").write_text("half")
    writer.kill()
    writer.wait()
    claim_folder(partial_of(out))  # to resume it
    assert content(partial_of(out)) == "half"
    assert not (start_folder(out) / "content").exists()


def test_a_process_that_only_has_the_number_of_a_killed_one_does_not_block(tmp_path: Path) -> None:
    partial = start_folder(tmp_path / "out")
    shutil.copytree(partial, tmp_path / "other.partial")  # nobody holds the copy's lock
    mark = tmp_path / "other.partial/.owner"
    mark.write_text(f"{os.getppid()}\n")
    assert start_folder(tmp_path / "other")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say when a process began")
def test_a_mark_of_an_older_version_is_understood(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    mark = partial / ".owner"
    mark.write_text(str(os.getppid()))
    with pytest.raises(RunError, match=f"process {os.getppid()} is writing it"):
        start_folder(tmp_path / "out")
    years_ago = time.time() - 1e8  # before that process began: it only has the same number
    os.utime(mark, (years_ago, years_ago))
    assert start_folder(tmp_path / "out") == partial


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_forked_child_does_not_hold_a_folder_after_the_kill_of_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom vl2v_deploy.folders import start_folder\n"
        "start_folder(Path(sys.argv[1]))\n"
        "if not os.fork():\n    print('ready', flush=True)\ntime.sleep(5)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        assert start_folder(tmp_path / "out")
