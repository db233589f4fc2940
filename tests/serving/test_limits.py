"""The limits of each client, on a clock of the test's own."""

from __future__ import annotations

import pytest

from vl2v_deploy.errors import ServingError
from vl2v_deploy.serving.limits import ClientLimits
from vl2v_deploy.serving.settings import ServeSettings, key_from_environment


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_over_a_long_time_the_rate_is_the_limit() -> None:
    clock = Clock()
    limits = ClientLimits(None, 120.0, clock)
    let_in = 0
    for _ in range(6000):  # ten minutes, asking ten times a second for 5 images
        clock.now += 0.1
        let_in += 5 * (limits.wait_s("a", 5) == 0.0)
    assert 1200 <= let_in <= 1200 + 120 + 5  # the first minute's worth may come at once


def test_what_it_says_to_wait_is_enough_and_no_more() -> None:
    clock = Clock()
    limits = ClientLimits(60.0, 600.0, clock)
    assert [limits.wait_s("a", 300) for _ in range(2)] == [0.0, 0.0]
    wait_s = limits.wait_s("a", 50)
    assert wait_s == pytest.approx(5.0)
    clock.now += wait_s - 0.01
    assert limits.wait_s("a", 50) > 0
    clock.now += 0.02
    assert limits.wait_s("a", 50) == 0.0


def test_clients_do_not_share_and_a_refusal_costs_nothing() -> None:
    clock = Clock()
    limits = ClientLimits(2.0, None, clock)
    assert [limits.wait_s("a", 0) for _ in range(4)] == [0.0, 0.0, 30.0, 30.0]
    assert limits.wait_s("b", 0) == 0.0


def test_more_than_a_minutes_worth_waits_for_a_whole_minute_and_is_paid_off() -> None:
    clock = Clock()
    limits = ClientLimits(None, 60.0, clock)
    assert limits.wait_s("a", 120) == 0.0
    assert limits.wait_s("a", 1) == pytest.approx(61.0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_batch", 0),
        ("max_pixels", 0),
        ("images_per_minute", 0.0),
        ("max_delay_ms", -1.0),
        ("port", 70000),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ServingError, match=setting):
        ServeSettings(**{setting: value})  # type: ignore[arg-type]


def test_the_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "top-secret")
    settings = ServeSettings(key=key_from_environment("A_KEY"))
    assert settings.is_key("top-secret") and not settings.is_key("top-secre") and not settings.is_key(None)
    assert "top-secret" not in repr(settings)


@pytest.mark.parametrize("value", [None, "", " ", "two words", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ServingError, match="A_KEY") as error:
        key_from_environment("A_KEY")
    assert not value or not value.strip() or value not in str(error.value)
