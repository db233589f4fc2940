"""Whether to ask again, and when: statuses, words of money, Retry-After in all its forms."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from vl2v_deploy.models.teacher.http.retries import delay_s, retry_after_s, verdict_of, words_of

QUOTA = "You exceeded your current quota, please check your plan"


@pytest.mark.parametrize(
    ("status", "headers", "text", "verdict"),
    [
        (401, {}, "", "stop"),
        (402, {}, "", "stop"),
        (403, {}, "", "stop"),
        (400, {}, "Your credit balance is too low", "stop"),
        (429, {}, "check your billing details", "stop"),
        (429, {"retry-after": "5"}, "check your billing details", "stop"),
        (429, {}, QUOTA, "stop"),
        (429, {"retry-after": "5"}, "Quota of 400 requests a minute exceeded", "wait"),
        (429, {}, "too many requests", "wait"),
        (429, {}, "see /quotaincrease; credentials are fine; load balancer", "wait"),
        (400, {}, "invalid image", "refused"),
        (404, {}, "no such model", "refused"),
        (422, {}, "input: too many", "refused"),
        (307, {}, "", "refused"),
        (408, {}, "", "again"),
        (425, {}, "", "again"),
        (500, {}, "billing service failed", "again"),
        (503, {}, "", "again"),
        (529, {}, "", "again"),
    ],
)
def test_http_verdict(status: int, headers: dict[str, str], text: str, verdict: str) -> None:
    assert verdict_of(status, headers, text) == verdict


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        (
            {
                "retry-after": "Sat, 28 Nov 2026 10:00:30 GMT",
                "date": "Sat, 28 Nov 2026 10:00:00 GMT",  # a server whose clock is far from ours
            },
            30.0,
        ),
        (
            {"retry-after": "Sat, 28 Nov 2026 09:00:00 GMT", "date": "Sat, 28 Nov 2026 10:00:00 GMT"},
            0.0,
        ),
    ],
)
def test_http_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_http_retry_after_as_a_date_by_our_clock() -> None:
    until = datetime.now(UTC) + timedelta(seconds=40)
    found = retry_after_s({"retry-after": format_datetime(until, usegmt=True)})
    assert found is not None and 37 < found <= 40


def test_http_delays_double_up_to_a_limit_and_are_spread() -> None:
    for attempt, whole in enumerate([0.5, 1, 2, 4, 8, 8, 8]):
        drawn = {delay_s(attempt) for _ in range(50)}
        assert len(drawn) > 10 and 0.75 * whole <= min(drawn) <= max(drawn) <= whole
    assert delay_s(10_000) <= 8


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no\n  such model", "code": 404}}, "no such model"),
        ({"error": "unexpected inference input"}, "unexpected inference input"),
        ({"message": "slow down"}, "slow down"),
        ({"detail": [{"loc": ["body", "input"], "msg": "field required"}]}, "field required"),
        ({"detail": "Unauthorized"}, "Unauthorized"),
        ({"code": 7}, '{"code": 7}'),
    ],
)
def test_http_words_of_an_error(body: object, words: str) -> None:
    assert words_of(json.dumps(body)) == words


@pytest.mark.parametrize(
    ("text", "words"), [("", "no words"), ("<b>\x1b[31mBad\r\nGateway", "<b> [31mBad Gateway")]
)
def test_http_words_of_no_json(text: str, words: str) -> None:
    assert words_of(text) == words
