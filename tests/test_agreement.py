"""The page about agreement: nothing is unexplained, and nothing is explained in vain."""

import agreement
import pytest


@pytest.fixture(scope="module")
def found():
    return agreement.differences()


def test_every_large_difference_has_a_reason(found):
    assert len(found) > 2500
    assert agreement.unexplained(found) == []


@pytest.mark.parametrize("reason", agreement.REASONS, ids=lambda r: f"{r.system} {r.quantity}")
def test_every_reason_is_needed(found, reason):
    assert any(agreement.reason_for(d) is reason for d in found if d.size > agreement.LIMIT)


def test_a_difference_without_a_reason_is_named():
    size = 10.0 * agreement.LIMIT
    wrong = agreement.Difference("R lm", "", "hbk", "coefficients", size, agreement.SE)
    missing = wrong._replace(size=float("nan"))
    assert agreement.unexplained([wrong, missing]) == [wrong, missing]
    assert agreement.unexplained([wrong._replace(size=0.0)]) == []


def test_the_page_names_every_system(found):
    text = agreement.page(found)
    assert all(f"| {d.system} |" in text for d in found)
