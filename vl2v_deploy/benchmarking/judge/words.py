"""Numbers as a report writes them; "-" for those that are not known."""

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
    """A share in percent.

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
    """Seconds.

    >>> duration(0.214), duration(2.34), duration(143.2)
    ('0.21', '2.3', '143')
    """
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def rate(number: float | None) -> str:
    """A rate or ratio, three digits, more where they stand before the point.

    >>> rate(56.584), rate(1578.19), rate(None)
    ('56.6', '1,578', '-')
    """
    if number is None:
        return NONE
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def megabytes(size_bytes: int | None) -> str:
    """A size in millions of bytes.

    >>> megabytes(14_758_824), megabytes(214_000_000), megabytes(None)
    ('14.8', '214', '-')
    """
    return NONE if size_bytes is None else f"{size_bytes / 1e6:,.{1 if size_bytes < 100e6 else 0}f}"


def interval_words(low: float | None, high: float | None) -> str:
    """The 95 % interval of a ratio; None where there were too few rounds for one.

    >>> interval_words(1.5, 2.25), interval_words(None, None)
    ('95 % interval 1.5 to 2.25', 'too few rounds for an interval')
    """
    if low is None or high is None:
        return "too few rounds for an interval"
    return f"95 % interval {rate(low)} to {rate(high)}"


def cheaper(ours: float, theirs: float) -> str:
    """What something costs compared to another.

    >>> cheaper(0.48, 2.42), cheaper(5.0, 2.0), cheaper(2.0, 2.0)
    ('5.04 times cheaper than', '2.5 times more expensive than', 'as expensive as')
    >>> cheaper(0.0, 2.0), cheaper(2.0, 0.0)
    ('free, unlike', 'not free, unlike')
    """
    if ours == theirs:
        return "as expensive as"
    if not ours or not theirs:
        return "free, unlike" if theirs else "not free, unlike"
    if ours < theirs:
        return f"{rate(theirs / ours)} times cheaper than"
    return f"{rate(ours / theirs)} times more expensive than"


def upper_first(words: str) -> str:
    """Words at the beginning of a line.

    >>> upper_first("target accuracy"), upper_first("OOD accuracy")
    ('Target accuracy', 'OOD accuracy')
    """
    return words[:1].upper() + words[1:]


def joined(names: list[str]) -> str:
    """Names in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
