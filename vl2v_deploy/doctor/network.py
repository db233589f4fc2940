"""Whether the model hub can be reached, from which teachers and backbones are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from vl2v_deploy.doctor.children import Failed, answer_of
from vl2v_deploy.doctor.environment import value_to_show
from vl2v_deploy.doctor.findings import Finding

ANSWER_S = 4.0  # of the hub
LIMIT_S = 20.0  # of the child, names that are looked up without end included
FIX = (
    "behind a proxy set HTTPS_PROXY; a mirror: HF_ENDPOINT; without any: HF_HUB_OFFLINE=1, so that nothing "
    "waits for it. builtin: and local-dir: teachers need no hub"
)
_PROGRAM = f"""
import json, urllib.error, urllib.request
from huggingface_hub import constants
found = {{"hub": constants.ENDPOINT, "offline": bool(constants.HF_HUB_OFFLINE), "problem": None}}
if not found["offline"]:
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout={ANSWER_S})
    except urllib.error.HTTPError:
        pass  # it answered
    except Exception as error:
        found["problem"] = " ".join(str(error).split())[:200] or type(error).__name__
print(json.dumps(found))
"""


def check_hub() -> Iterator[Finding]:
    """Asks the hub that the installed hub client would ask, unless it is told to stay offline."""
    if find_spec("huggingface_hub") is None:
        yield Finding("hub", "note", "no hub client is installed: nothing is downloaded from a model hub")
        return
    found = answer_of(_PROGRAM, limit_s=LIMIT_S)
    if isinstance(found, Failed):
        yield Finding("hub", "unknown", f"the model hub was not asked: {found.why}", FIX)
        return
    hub = found["hub"] = value_to_show("HF_ENDPOINT", found["hub"])
    if found["offline"]:
        fix = "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE to download models"
        yield Finding("hub", "note", f"{hub} was not asked: downloads are switched off", fix, found)
    elif found["problem"]:
        yield Finding("hub", "warning", f"{hub} cannot be reached: {found['problem']}", FIX, found)
    else:
        yield Finding("hub", "ok", f"{hub} answers", "", found)
