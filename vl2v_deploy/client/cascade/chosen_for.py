"""Whether a policy follows the student that it was chosen for: thresholds mean nothing for another one."""

from __future__ import annotations

import logging

from vl2v_deploy.client.bundle import ONNX, Bundle, numeric
from vl2v_deploy.client.cascade.policy import CascadePolicy
from vl2v_deploy.client.checksums import sha256_of
from vl2v_deploy.client.student import Student
from vl2v_deploy.errors import BundleError

_LOGGER = logging.getLogger("vl2v_deploy.client")


def onnx_sha256_of(bundle: Bundle) -> str:
    """SHA-256 of the bundle's student.onnx, which all its other files are made from."""
    listed = bundle.manifest.files.get(ONNX)
    return listed.sha256 if listed else sha256_of(bundle.onnx)


def require_student(policy: CascadePolicy, student: Student, source: str) -> None:
    """Raise BundleError where the policy was chosen for another student.

    Logged as a warning: a policy that does not say for which student it was chosen, as those of earlier
    versions, and one that was chosen on another precision's answers.

    source: what messages call the policy, such as its file
    """
    chosen = policy.chosen_for
    if chosen is None:
        _LOGGER.warning(
            "%s: does not say for which student it was chosen, so that is not checked: run "
            "`vl2v-deploy benchmark BUNDLE --teacher` again to have it checked",
            source,
        )
        return
    bundle = student.bundle
    if chosen.onnx_sha256 != (actual := onnx_sha256_of(bundle)):
        raise BundleError(
            f"{source}: was chosen for the bundle {chosen.bundle!r} (SHA-256 of {ONNX}: "
            f"{chosen.onnx_sha256[:12]}...), and {bundle.source} holds another one ({actual[:12]}...), for "
            "which its thresholds mean nothing; benchmark this bundle with --teacher and take the "
            "cascade.json beside that report"
        )
    if numeric(chosen.precision) != numeric(student.precision):
        _LOGGER.warning(
            "%s: was chosen on the answers of the %s file, here the %s file answers: the share that is sent "
            "to the teacher may differ from what the report promised",
            *(source, chosen.precision, student.precision),
        )
