"""What every part of run.json is."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class RecordPart(BaseModel):
    """Frozen. Unknown keys are ignored: a later version may add some without another format.

    later: fields that came after the format, by their dotted names, written only where they say something
    """

    model_config = ConfigDict(frozen=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty_later_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = dump(self)
        for field in self.later:
            *sections, name = field.split(".")
            part = tree
            for section in sections:
                part = part[section]
            if name in part and part[name] is None:
                del part[name]
        return tree
