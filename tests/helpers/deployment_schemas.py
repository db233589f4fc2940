"""JSON Schemas of what we write for Docker Compose and KServe: the fields that we use, and no others.

They say less than the published ones (compose-spec's schema, KServe's CustomResourceDefinition), which allow
many more fields, and are stricter where a misspelt field would be ignored in silence.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_DURATION = {"type": "string", "pattern": "^[1-9][0-9]*(ms|s|m|h)$"}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of these properties alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required or properties),
        "additionalProperties": False,
    }


_DEVICE = _closed(driver=_TEXT, count={"type": "integer", "minimum": 1}, capabilities={"const": ["gpu"]})
COMPOSE = _closed(
    services={
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[a-zA-Z0-9._-]+$"},
        "additionalProperties": _closed(
            ("image", "command", "ports", "volumes", "restart", "healthcheck"),
            image={"type": "string", "pattern": r"^[a-z0-9./_-]+:[\w.-]+$"},
            command=_TEXTS,
            ports={"type": "array", "uniqueItems": True, "items": {"pattern": "^[0-9]+:[0-9]+$"}},
            volumes={
                "type": "array",
                "items": _closed(
                    type={"const": "bind"}, source=_TEXT, target={"pattern": "^/"}, read_only={"const": True}
                ),
            },
            restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
            healthcheck=_closed(
                test={
                    "type": "array",
                    "items": _TEXT,
                    "minItems": 2,
                    "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
                },
                interval=_DURATION,
                timeout=_DURATION,
                retries={"type": "integer", "minimum": 1},
                start_period=_DURATION,
            ),
            deploy=_closed(
                resources=_closed(reservations=_closed(devices={"type": "array", "items": _DEVICE}))
            ),
        ),
    }
)
# As Kubernetes writes amounts of a resource, a string in quotes.
_QUANTITY = {"type": "string", "pattern": "^[1-9][0-9]*(m|Ki|Mi|Gi|Ti)?$"}
INFERENCE_SERVICE = _closed(
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    # a DNS label: it becomes a host name
    metadata=_closed(name={"pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}),
    spec=_closed(
        predictor=_closed(
            model=_closed(
                ("modelFormat", "protocolVersion", "runtimeVersion", "storageUri", "resources"),
                modelFormat=_closed(name=_TEXT),
                runtime=_TEXT,
                protocolVersion={"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
                runtimeVersion=_TEXT,
                storageUri={"pattern": "^(s3|gs|pvc|https?|hdfs|oci)://.+"},
                args=_TEXTS,
                resources=_closed(
                    limits={
                        "type": "object",
                        "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu"]},
                        "additionalProperties": _QUANTITY,
                        "required": ["memory"],
                    }
                ),
            )
        )
    ),
)
