"""Whether the installed Pillow has holes that are known."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from vl2v_deploy.doctor.findings import Finding
from vl2v_deploy.doctor.importing import OUR_IMPORTS


def check_pillow() -> Iterator[Finding]:
    """A warning for a Pillow with a known hole: the client logs the same."""
    with OUR_IMPORTS:
        from vl2v_deploy.client.images import hole_in_pillow

    try:
        version = metadata.version("pillow")
    except metadata.PackageNotFoundError:
        return  # it is said to be missing
    if hole := hole_in_pillow(version):
        fix = "pip install -U pillow; or, for images from strangers, Limits(decode_deadline_s=...)"
        yield Finding("packages", "warning", hole, fix, {"package": "pillow", "version": version})
