"""Which images the page shows, and what it counts: checked against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.looks import made_up_look
from vl2v_deploy.looking.choosing import (
    PICTURES_OF_CLASS,
    SURE,
    confusion,
    counts_by_domain,
    disagreements,
    least_sure,
    mistakes_by_domain,
    points_of_map,
    surest,
    weak_classes,
)
from vl2v_deploy.looking.component_map import principal_components
from vl2v_deploy.looking.summary import summary_of
from vl2v_deploy.looking.words import headline, lead


def test_counts_add_up_and_are_those_of_a_loop() -> None:
    look = made_up_look(count=300)
    a = look.answers
    for number, (domain, counts) in enumerate(counts_by_domain(look).items()):
        rows = [row for row in range(300) if a.domain[row] == number]
        assert counts.images == len(rows) and counts.of == look.of[domain]
        assert counts.right == sum(a.index[row] == a.label[row] for row in rows)
        assert counts.confident == sum(a.index[r] != a.label[r] and a.confidence[r] >= SURE for r in rows)
        of_kinds = counts.both_right + counts.only_student + counts.only_teacher + counts.both_wrong
        assert of_kinds == counts.asked == sum(a.teacher[row] >= 0 for row in rows)
        both = [row for row in rows if a.teacher[row] >= 0]
        assert counts.agree == sum(a.index[row] == a.teacher[row] for row in both)
        teacher = np.mean([a.teacher[row] == a.label[row] for row in both])
        assert counts.teacher_accuracy == pytest.approx(teacher)


def test_mistakes_are_the_surest_wrong_answers_of_their_domain_the_target_first() -> None:
    look = made_up_look(count=300)
    a, found = look.answers, mistakes_by_domain(look)
    assert next(iter(found)) == look.subject.target == look.domains[0]
    assert found.keys() == set(look.domains)
    others = [counts_by_domain(look)[name].accuracy for name in list(found)[1:]]
    assert others == sorted(others)
    for domain, rows in found.items():
        number = look.domains.index(domain)
        wrong = [r for r in range(300) if a.domain[r] == number and a.index[r] != a.label[r]]
        expected = sorted(wrong, key=lambda row: -a.confidence[row])[: len(rows)]
        assert list(rows) == expected and rows


def test_disagreements_are_sorted_by_who_is_right() -> None:
    a = made_up_look(count=300).answers
    found = disagreements(a)
    assert all(found.values())
    for kind, rows in found.items():
        for row in rows:
            assert a.teacher[row] >= 0 and a.teacher[row] != a.index[row]
            right = (a.index[row] == a.label[row], a.teacher[row] == a.label[row])
            expected = {"only_student": (True, False), "only_teacher": (False, True)}
            assert right == expected.get(kind, (False, False))


def test_a_class_of_few_images_is_not_called_the_worst_for_one_mistake() -> None:
    look = made_up_look(count=400, wrong_class=3, lonely_class=1)
    weak = weak_classes(look)
    assert weak[0].label == 3 and weak[0].right == 0
    assert sum(n for _, n in weak[0].taken_for) == weak[0].images == sum(n for _, n, _ in weak[0].by_domain)
    assert 0 < len(weak[0].rows) <= PICTURES_OF_CLASS
    lonely = next(w for w in weak if w.label == 1)
    assert (lonely.images, lonely.right) == (1, 0) and weak.index(lonely) > 0


def test_confusion_counts_every_image_once() -> None:
    look = made_up_look(count=300)
    rows = look.rows_of(1)
    pairs = confusion(look.answers, look.answers.index, rows)
    assert sum(n for _, _, n in pairs) == len(rows)
    assert (
        sum(n for truth, said, n in pairs if truth == said) == counts_by_domain(look)[look.domains[1]].right
    )


def test_the_surest_and_the_least_sure_are_the_ends_of_one_order() -> None:
    a = made_up_look(count=50).answers
    everything = surest(a, np.ones(50, dtype=bool), 50)
    assert a.confidence[list(everything)].tolist() == sorted(a.confidence, reverse=True)
    assert set(least_sure(a, 10)) == set(everything[-10:])


def test_the_map_keeps_the_share_of_every_domain() -> None:
    look = made_up_look(count=3000)
    rows = points_of_map(look.answers)
    assert len(rows) == len(set(rows)) == 600
    shares = [np.mean(look.answers.domain == number) for number in range(len(look.domains))]
    of_map = [np.mean(look.answers.domain[list(rows)] == number) for number in range(len(look.domains))]
    assert of_map == pytest.approx(shares, abs=0.01)


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    embedding = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    embedding[:, 3] *= 9
    embedding[:, 7] *= 4
    place, explained = principal_components(embedding)
    centred = embedding - embedding.mean(0)
    u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    assert np.abs(place) == pytest.approx(np.abs(u[:, :2] * s[:2]), abs=1e-4)
    assert explained == pytest.approx((s**2 / (s**2).sum())[:2], abs=1e-6)
    # the sign is that of the largest loading, here of columns 3 and 7, whatever the images
    for seed in range(8):
        other = np.random.default_rng(seed).normal(size=(100, 16)) * np.array(
            [1] * 3 + [9] + [1] * 3 + [4] + [1] * 8
        )
        place, _ = principal_components(other)
        assert all(np.corrcoef(place[:, n], other[:, column])[0, 1] > 0.9 for n, column in ((0, 3), (1, 7)))
    for one in (embedding[:1], np.ones((5, 4), np.float32), embedding[:9, :1]):  # nothing varies, or one way
        place, explained = principal_components(one)
        assert place.shape == (len(one), 2) and np.isfinite(place).all() and 0 <= sum(explained) <= 1 + 1e-9


def test_words_say_what_was_counted() -> None:
    look = made_up_look(count=300)
    counts = counts_by_domain(look)[look.domains[0]]
    wrong = counts.images - counts.right
    assert f"wrong on {wrong} of {counts.images} images of {look.domains[0]}" in headline(look)
    assert f"right on {counts.only_teacher} of these" in (lead(look) or "")
    summary = summary_of(look)
    assert summary["domains"][look.domains[0]]["right"] == counts.right
    first = summary["domains"][look.domains[0]]["most_confident_mistakes"][0]
    assert first["class"] != first["student"] and 0 <= first["confidence"] <= 1
