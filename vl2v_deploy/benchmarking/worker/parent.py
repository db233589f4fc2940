"""What the parent of a measured process asks, and the end of the process when its parent ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread

from vl2v_deploy.signals import end_with_parent

LOOK_AGAIN_S = 0.05


def requests_of_parent() -> Iterator[str]:
    """The lines of standard input. When the parent ends, so does this process, whatever it is doing.

    Linux kills it. Elsewhere a thread sees the end of the pipe, and then that another process is the parent.
    A parent that only closes the pipe gets its last answer.
    """
    end_with_parent(signal.SIGKILL)
    parent = os.getppid()
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        # not sys.stdin, which the interpreter locks when it ends, while this thread may be reading
        with os.fdopen(os.dup(0), encoding="utf-8") as requests:
            for line in requests:
                lines.put(line)
        lines.put(None)
        while os.getppid() == parent:
            time.sleep(LOOK_AGAIN_S)
        os._exit(1)

    Thread(target=read, daemon=True, name="requests").start()
    return iter(lines.get, None)
