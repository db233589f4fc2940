"""A Student that was loaded before os.fork: refused in the child, which ends at once; its parent goes on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.colour_bundle import make_colour_bundle, make_data

# The parent's session has two threads, which a fork does not copy: that is what hangs.
SCRIPT = """
import os, sys, warnings
from vl2v_deploy.client import Student
from vl2v_deploy.errors import ClosedError

warnings.simplefilter("ignore")  # Python's own, of forking with threads
student = Student.load(sys.argv[1], threads=2, precision="fp32")
image = next((student.bundle.path / "golden").glob("*.png"))
student.predict(image)
child = os.fork()
if not child:
    for ask in (student.predict, student.embed, lambda image: list(student.stream([image]))):
        try:
            ask(image)
        except ClosedError as error:
            print(error)
    if sys.argv[2] == "reload":
        with Student.load(sys.argv[1], threads=2, precision="fp32") as again:
            print("again", again.predict(image).label)
    if sys.argv[2] == "close":
        student.close()
    sys.exit(3)
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status), "parent", student.predict(image).label)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("then", ["exit", "close", "reload"])
def test_a_forked_student_says_so_and_its_process_ends(tmp_path: Path, then: str) -> None:
    bundle = make_colour_bundle(tmp_path / "bundle", make_data(tmp_path / "data"))
    command = [sys.executable, "-c", SCRIPT, str(bundle), then]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *said, last = done.stdout.splitlines()
    refused = [line for line in said if "was loaded before this process was forked: load it again" in line]
    assert len(refused) == 3 and str(bundle) in refused[0]
    assert said[3:] == (["again red"] if then == "reload" else [])
    assert (last, done.stderr) == ("child 3 parent red", "")


# onnxruntime is imported and nothing more; the child registers a function of C's and one of Python's.
END = """
import atexit, ctypes, os, sys, warnings
warnings.simplefilter("ignore")
import vl2v_deploy.client.session
if sys.argv[1] == "imported":
    import onnxruntime
libc = ctypes.CDLL(None)
libc["__cxa_atexit"](libc.puts, b"C", None)
child = os.fork()
if not child:
    atexit.register(os.write, 1, b"Python ")
    libc.fdopen.restype = ctypes.c_void_p
    libc.fputs(b"buffered", ctypes.c_void_p(libc.fdopen(os.dup(1), b"w")))
    sys.exit(3)
ends = 100
while ends and not (found := os.waitpid(child, os.WNOHANG))[0]:
    ends -= 1
    import time
    time.sleep(0.1)
if not ends:
    os.kill(child, 9)
    found = os.waitpid(child, 0)
os.write(1, b" = %d" % os.waitstatus_to_exitcode(found[1]))
os._exit(0)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="on_exit is glibc's")
@pytest.mark.parametrize(
    ("imported", "variable", "expected"),
    [
        ("imported", "", "3 = Python buffered"),
        ("not", "", "3 = C Python buffered"),
        ("not", "usual", "3 = C Python buffered"),
        ("imported", "usual", None),  # onnxruntime 1.32 hangs then, others may not
    ],
)
def test_a_forked_process_skips_no_more_of_its_end_than_it_must(
    imported: str, variable: str, expected: str | None
) -> None:
    command = [sys.executable, "-c", END, imported]
    environment = os.environ | {"VL2V_DEPLOY_FORKED_EXIT": variable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    said = " ".join(sorted(done.stdout.split()))
    if expected is None:
        assert "C" in said.split()
    else:
        assert said == expected
    assert done.stderr == ""
