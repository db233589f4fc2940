"""What a teacher's folder holds: which shard has the embedding of which key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from vl2v_deploy.models.store.damage import Damage
from vl2v_deploy.models.store.disk import DiskRefusal
from vl2v_deploy.models.store.journal import read_whole, recover
from vl2v_deploy.models.store.mapped import zero_rows
from vl2v_deploy.models.store.shards import read_keys, read_rows, split_keys
from vl2v_deploy.terminal import say_once


class Held:
    """The embeddings in `folder`, of `dim` numbers each; what others add is seen at the next `refresh`.

    tell: called with a part that is damaged, and set aside; where it returns, the part counts as not there

    Journals of dead processes become shards; where the disk refuses that, they are read where they are.
    """

    def __init__(self, folder: Path, dim: int, tell: Callable[[Damage], None]) -> None:
        self.folder, self.dim, self._tell = folder, dim, tell
        self._keys: dict[Path, bytes] = {}  # of each shard, as read_keys gives them
        self._damaged: set[Path] = set()
        self._unfolded: dict[bytes, Tensor] = {}  # of journals that cannot become shards
        self.recover()
        self.refresh()  # a damaged shard is found before anything is paid

    def recover(self, *, to_buy: bool = False) -> None:
        """Makes shards of the journals of dead processes.

        to_buy: the disk must do it, as more answers are to be kept; else DiskRefusal
        """
        try:
            recover(self.folder)
        except Damage as damage:
            self._tell(damage)
        except DiskRefusal as refusal:
            if to_buy:
                raise
            self._unfolded = read_whole(self.folder)
            if self._unfolded:
                say_once(f"{self.folder}: journals are read as they are, no shard can be made: {refusal}")

    def refresh(self) -> list[Path]:
        """Reads the keys of shards that are not known yet; those shards."""
        new = sorted(set(self.folder.glob("*.safetensors")) - self._keys.keys() - self._damaged)
        for shard in new:
            try:
                self._keys[shard] = read_keys(shard, self.dim)
            except Damage as damage:
                self._damaged.add(shard)
                self._tell(damage)
        return [shard for shard in new if shard in self._keys]

    def drop(self, missing: dict[bytes, int], shards: Iterable[Path] | None = None) -> None:
        """Removes from `missing` the keys that are held.

        shards: look only into these; None = into all that is known
        """
        for key in missing.keys() & self._unfolded.keys():
            del missing[key]
        for shard in list(self._keys) if shards is None else shards:
            if not missing:
                return
            for key in split_keys(self._keys[shard]):
                missing.pop(key, None)

    def rows(self, keys: Sequence[bytes]) -> Tensor | None:
        """The embeddings of keys, float32 (N, D); None where a shard that held some turned out damaged.

        Reads only shards that hold some. Many rows are not in memory: see models.store.mapped.
        """
        slots: dict[bytes, int] = {}
        again = [slot for slot, key in enumerate(keys) if slots.setdefault(key, slot) != slot]
        rows = zero_rows(len(keys), self.dim)
        unread = set(slots)
        for key in unread & self._unfolded.keys():
            rows[slots[key]] = self._unfolded[key]
            unread.discard(key)
        for shard, joined in list(self._keys.items()):
            if not unread:
                break
            held = {key: row for row, key in enumerate(split_keys(joined)) if key in unread}
            if not held:
                continue
            try:
                rows[[slots[key] for key in held]] = read_rows(shard, list(held.values()))
            except Damage as damage:
                del self._keys[shard]
                self._damaged.add(shard)
                self._tell(damage)
            else:
                unread -= held.keys()
        if unread:
            return None
        if again:
            rows[again] = rows[[slots[keys[slot]] for slot in again]]
        return rows
