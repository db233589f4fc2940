"""One late import of this package at a time: threads that import parts of it may wait for each other."""

from __future__ import annotations

import threading

# Python 3.14 was seen to end an import by an error where each of two threads held the lock of a module that
# the other needed. The checks run in threads, and import late what may be broken.
OUR_IMPORTS = threading.Lock()
