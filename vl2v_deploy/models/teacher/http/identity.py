"""The name of a model behind an API, which changes whenever its answers could."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlsplit

from vl2v_deploy.models.teacher.http.apis.wire import ApiSettings, Wire
from vl2v_deploy.models.teacher.http.images import VERSION, sent_quality


def identity_of(asked: ApiSettings, wire: Wire) -> str:
    """API, model and host, and the hash of all settings that can change an answer.

    wire: the API's adapter
    """
    image = asked.image
    settings = {
        "api": asked.api,
        "host": asked.host,
        "path": urlsplit(asked.url).path.rstrip("/"),
        "model": asked.model,
        "text_model": asked.text_model,
        "dimensions": asked.dimensions,
        "mode": wire.mode,
        "image": {
            "size_px": image.size_px,
            "format": image.format,
            "quality": sent_quality(image),
            "version": VERSION,
        },
    }
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f"{asked.api}/{asked.model}@{asked.host}#{digest[:12]}"
