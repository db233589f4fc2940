"""A look in a few sentences, for the top of the page and the terminal."""

from __future__ import annotations

import numpy as np

from vl2v_deploy.looking.answers import Look
from vl2v_deploy.looking.choosing import SURE, Counts, counts_by_domain, counts_of
from vl2v_deploy.names import shown


def percent(part: float) -> str:
    """A share in [0, 1] as a whole percentage; 100 and 0 only where it is all or nothing.

    >>> percent(0.994), percent(0.9999), percent(1.0), percent(0.001)
    ('99', '>99', '100', '<1')
    """
    if 0.995 <= part < 1:
        return ">99"
    return "<1" if 0 < part < 0.005 else f"{100 * part:.0f}"


def share(part: float) -> str:
    """A share in [0, 1] as a percentage with one decimal.

    >>> share(0.8159)
    '81.6'
    """
    return f"{100 * part:.1f}"


def headline(look: Look) -> str:
    """What is seen at a glance."""
    if not look.labelled:
        return _headline_of_folder(look)
    domain, counts = _first(look)
    wrong = counts.images - counts.right
    of = f"{counts.images:,} images" + (f" of {domain}" if domain else "")
    if not wrong:
        return f"The student is right on all {of}."
    sure = f"with {100 * SURE:.0f} % confidence or more"
    match counts.confident:
        case 0:
            return f"The student is wrong on {wrong:,} of {of}, never {sure}."
        case 1:
            return f"The student is wrong on {wrong:,} of {of}, once {sure}."
    return f"The student is wrong on {wrong:,} of {of}, {counts.confident:,} times {sure}."


def lead(look: Look) -> str | None:
    """What the teacher says about it; None where nothing is known."""
    if not look.labelled or not look.teacher:
        return None
    _, counts = _first(look)
    wrong = counts.only_teacher + counts.both_wrong
    if not counts.asked or not wrong:
        return None
    partly = "" if counts.asked == counts.images else f", of the {counts.asked:,} images that it has answered"
    return (
        f"Its teacher is right on {counts.only_teacher:,} of these {wrong:,} mistakes, and wrong on "
        f"{counts.only_student:,} images that the student gets right{partly}."
    )


def lines_of(look: Look) -> list[str]:
    """What the terminal shows: the headline, each domain in a line, then what the reader must know."""
    lines = [headline(look), *filter(None, [lead(look)])]
    if look.labelled:
        for domain, counts in counts_by_domain(look).items():
            role = f" ({look.subject.target_role})" if domain == look.subject.target else ""
            teacher = counts.teacher_accuracy
            beside = "" if teacher is None else f", teacher {share(teacher)} %"
            lines.append(
                f"  {domain}{role}: {share(counts.accuracy)} % of {counts.images:,} images{beside}; "
                f"confident mistakes: {counts.confident:,}"
            )
    return [shown(line) for line in (*lines, *look.notes)]


def _first(look: Look) -> tuple[str, Counts]:
    """The target, or without one all domains together, and what is counted there."""
    if look.has_target or len(look.domains) == 1:
        return look.domains[0], counts_by_domain(look)[look.domains[0]]
    return "", counts_of(look, np.arange(len(look.answers)), sum(look.of.values()))


def _headline_of_folder(look: Look) -> str:
    answers, count = look.answers, len(look.answers)
    sure = float((answers.confidence >= SURE).mean())
    said = (
        f"The student answers {share(sure)} % of {count:,} images with {100 * SURE:.0f} % confidence or more"
    )
    if look.subject.abstain_below is None:
        return f"{said}; nothing is known below which confidence it is better not relied on."
    return f"{said}; {share(float(answers.abstained.mean()))} % are under its threshold, where it abstains."
