"""What a server is told: where it listens, whom it answers, how much it takes on."""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass, field

from vl2v_deploy.client.images import WEB_FORMATS, Limits
from vl2v_deploy.errors import ServingError


@dataclass(frozen=True)
class ServeSettings:
    """Raises ServingError for a value that cannot be meant.

    host, port:          where it listens; port 0 = any that is free
    key:                 that requests must carry; None = none is asked for
    requests_per_minute, images_per_minute: of each client address; None = no limit
    max_batch:           images or texts that the teacher computes at once; None = its batch_size
    max_delay_ms:        how long the first of a batch waits for others
    max_queue:           images and texts that wait or are computed; beyond it the answer is 503
    max_body_bytes:      of a request; beyond it the answer is 413
    max_held_body_bytes: of all requests that are not answered yet; beyond it the answer is 503
    read_timeout_s:      for the headers of a request, and for each 64 KB of its body
    formats:             of encoded images, of client.images.FORMATS
    decode_deadline_s:   for a request's images together, in processes that are killed then; None = none
    max_pixels:          of a request's images together
    max_held_pixels:     of decoded images that wait or are computed; beyond it the answer is 503
    max_connections:     open at once; beyond it the answer is 503
    stop_timeout_s:      after SIGTERM, until requests that are not answered yet are given up
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = field(default=None, repr=False)
    requests_per_minute: float | None = None
    images_per_minute: float | None = None
    max_batch: int | None = None
    max_delay_ms: float = 5.0
    max_queue: int = 4096
    max_body_bytes: int = 32_000_000
    max_held_body_bytes: int = 256_000_000
    read_timeout_s: float = 10.0
    formats: tuple[str, ...] = WEB_FORMATS
    decode_deadline_s: float | None = 10.0
    max_pixels: int = 50_000_000
    max_held_pixels: int = 500_000_000
    max_connections: int = 512
    stop_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith("max_") and name != "max_delay_ms" and value is not None and value < 1:
                raise ServingError(f"{name} {value}: expected at least 1")
        for name in ("requests_per_minute", "images_per_minute", "read_timeout_s", "decode_deadline_s"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ServingError(f"{name} {limit}: expected more than 0")
        if self.max_held_body_bytes < self.max_body_bytes:
            raise ServingError(
                f"max_held_body_bytes {self.max_held_body_bytes}: expected at least max_body_bytes, "
                f"{self.max_body_bytes}"
            )
        if not self.max_delay_ms >= 0:
            raise ServingError(f"max_delay_ms {self.max_delay_ms}: expected at least 0")
        if not 0 <= self.port <= 65535:
            raise ServingError(f"port {self.port}: expected 0 to 65535")

    def limits(self) -> Limits:
        """What the client's decoder may be given by one request."""
        return Limits(
            max_pixels=self.max_pixels,
            max_bytes=self.max_body_bytes,
            formats=self.formats,
            decode_deadline_s=self.decode_deadline_s,
        )

    def is_key(self, given: str | None) -> bool:
        """Whether a request that carries `given` may be answered; takes as long for every wrong key."""
        return self.key is None or (
            given is not None and hmac.compare_digest(given.encode(), self.key.encode())
        )


def key_from_environment(name: str | None) -> str | None:
    """The key in an environment variable; None without a name.

    Raises ServingError, which does not repeat it, when the variable is not set or holds no key.
    """
    if name is None:
        return None
    key = os.environ.get(name, "")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        problem = "is empty or not set" if not key.strip() else "holds blanks or characters beyond ASCII"
        raise ServingError(f"environment variable {name}: {problem}; set it to the key for clients")
    return key
