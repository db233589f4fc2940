"""Buys on a disk of its own that is nearly full, with more room each time (for test_full_disk).

unshare -rm python -m tests.helpers.full_disk_buyer ROOT URL

Mounts a tmpfs on ROOT/disk, where store and ledger are. Prints a line of JSON for each try: the room in KB,
and the error that it ended with. The images are in ROOT/images, what the local teacher was asked in
ROOT/paid.txt.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.buyer import WritingTeacher
from tests.helpers.vendor_recipes import vendor_recipe, vendor_teacher
from vl2v_deploy.errors import ModelError
from vl2v_deploy.models.store.store import EmbeddingStore

DISK_KB = 8192  # the write-ahead log of the ledger alone takes up to 4 MB
ROOMS_KB = (0, 4, 12, 24, 44, 60, 76, 100, 140, 200)
DIM = 256


def fill(ballast: Path, room_kb: int) -> None:
    """Writes until the disk is full, then gives back so much."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(0, file.seek(0, os.SEEK_END) - 1024 * room_kb))


def main(root: Path, url: str) -> None:
    disk, images = root / "disk", sorted((root / "images").glob("*.png"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "none", disk], check=True)
    recipe = vendor_recipe("openai", url, dimensions=DIM, batch_size=2, concurrency=4, image={"size_px": 224})

    def buy(local: bool) -> str:
        try:
            teacher = WritingTeacher(root / "paid.txt") if local else vendor_teacher(disk, recipe)[0]
            EmbeddingStore(disk / "store", teacher).embed(images, "")
        except ModelError as error:
            return str(error)
        return ""

    for local in (True, False):
        for room_kb in ROOMS_KB:
            fill(disk / "ballast", room_kb)
            print(json.dumps({"local": local, "room_kb": room_kb, "error": buy(local)}), flush=True)
        (disk / "ballast").unlink()
        print(json.dumps({"local": local, "room_kb": DISK_KB, "error": buy(local)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
