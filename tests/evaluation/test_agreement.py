import pytest

from mmcb.evaluation.agreement import agree, agree_table


def test_cohens_kappa_of_a_known_table() -> None:
    # Cohen's usual example: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no.
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10
    pairs += [(False, False)] * 15
    found = agree(pairs)
    assert (found.n, found.agreement, found.only_first, found.only_second) == (50, 0.7, 5, 10)
    assert found.kappa == pytest.approx(0.4)


def test_what_one_of_them_cannot_label_is_left_out_and_counted() -> None:
    found = agree([(True, True), (None, True), (False, None), (None, None), (False, False)])
    assert (found.n, found.left_out, found.agreement, found.kappa) == (2, 3, 1.0, 1.0)


def test_kappa_at_its_ends() -> None:
    assert agree([]).agreement is None
    assert agree([]).kappa is None
    always = agree([(True, True)] * 5)
    assert (always.agreement, always.kappa) == (1.0, None)
    assert agree([(True, False), (False, True)]).kappa == -1.0
    assert agree([(True, True), (True, False), (False, True), (False, False)]).kappa == 0.0


def test_every_pair_of_raters_once() -> None:
    labels = [{"a": True, "b": True, "c": False}, {"a": False, "b": None, "c": False}]
    table = agree_table(labels, ["a", "b", "c"])
    assert [(row["first"], row["second"], row["n"]) for row in table] == [
        ("a", "b", 1),
        ("a", "c", 2),
        ("b", "c", 1),
    ]
    assert agree_table(labels, ["a"]) == []
