"""Numbers as a report writes them."""

from __future__ import annotations

NONE = "-"


def usd(amount: float | None) -> str:
    """An amount in dollars, cents only where they matter.

    >>> usd(1500.0), usd(0.0123), usd(2.5), usd(None)
    ('1,500', '0.0123', '2.50', '-')
    """
    if amount is None:
        return NONE
    if amount >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.2f}" if amount >= 1 or amount == 0 else f"{amount:.3g}"


def percent(share: float | None) -> str:
    """A share in percent, one decimal.

    >>> percent(0.74434), percent(None)
    ('74.4', '-')
    """
    return NONE if share is None else f"{100 * share:.1f}"


def with_interval(accuracy: float, low: float, high: float) -> str:
    """An accuracy in percent with its interval.

    >>> with_interval(0.744, 0.675, 0.81)
    '74.4 (67.5-81.0)'
    """
    return f"{percent(accuracy)} ({percent(low)}-{percent(high)})"


def signed_points(low: float, high: float) -> str:
    """The interval of a difference of accuracies, in points.

    >>> signed_points(-0.081, 0.012)
    '-8.1 to +1.2'
    """
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def ms(milliseconds: float | None) -> str:
    """Milliseconds, three digits.

    >>> ms(2.6811), ms(1234.5), ms(None)
    ('2.68', '1234', '-')
    """
    if milliseconds is None:
        return NONE
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"


def duration(seconds: float) -> str:
    """Seconds, two digits below ten, none behind the point above.

    >>> duration(0.214), duration(2.34), duration(143.2)
    ('0.21', '2.3', '143')
    """
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def rate(per_second: float | None) -> str:
    """A rate, three digits below a hundred, none behind the point above.

    >>> rate(56.584), rate(1578.19), rate(None)
    ('56.6', '1,578', '-')
    """
    if per_second is None:
        return NONE
    return f"{per_second:.3g}" if per_second < 100 else f"{per_second:,.0f}"


def megabytes(size_bytes: int | None) -> str:
    """A size in millions of bytes.

    >>> megabytes(14_758_824), megabytes(214_000_000), megabytes(None)
    ('14.8', '214', '-')
    """
    if size_bytes is None:
        return NONE
    return f"{size_bytes / 1e6:.1f}" if size_bytes < 100e6 else f"{size_bytes / 1e6:,.0f}"


def times(ratio: float) -> str:
    """A ratio, as many digits as mean something.

    >>> times(1.2345), times(208.33), times(12.34), times(999.7)
    ('1.23', '208', '12.3', '1,000')
    """
    return f"{ratio:.3g}" if ratio < 100 else f"{ratio:,.0f}"


def interval_words(low: float | None, high: float | None) -> str:
    """The 95 % interval of a ratio; None where there were too few rounds for one.

    >>> interval_words(1.5, 2.25), interval_words(None, None)
    ('95 % interval 1.5 to 2.25', 'too few rounds for an interval')
    """
    if low is None or high is None:
        return "too few rounds for an interval"
    return f"95 % interval {times(low)} to {times(high)}"


def fraction(ours: float, theirs: float) -> str:
    """How much of `theirs` is `ours`, as a reader would say it.

    >>> fraction(0.48, 2.42), fraction(5.0, 2.0)
    ('1/5.04 as much', '2.5 times as much')
    >>> fraction(0.0, 0.0), fraction(0.0, 2.0), fraction(2.0, 0.0)
    ('just as much', '0 times as much', 'infinitely many times as much')
    """
    if ours == theirs == 0:
        return "just as much"
    if ours <= theirs:
        return f"1/{times(theirs / ours)} as much" if ours else "0 times as much"
    return f"{times(ours / theirs)} times as much" if theirs else "infinitely many times as much"


def joined(names: list[str]) -> str:
    """Names in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
