"""What the benchmark of bytes makes of courses: when a target is reached, at what cost, and which method is best."""

from __future__ import annotations

import pytest

from benchmarks.bytes_to_accuracy import BASELINE, Course, Finding, Method, Moment, best, found


def course(*percents: float, each_bytes: int = 100) -> Course:
    """An evaluation a round, each of which sends so many bytes up and ten times as many down."""
    moments = [
        Moment(percent / 100, each_bytes * (index + 1), 10 * each_bytes * (index + 1))
        for index, percent in enumerate(percents)
    ]
    return Course(tuple(moments), 1.0)


DENSE = course(50, 79, 90, 90, 90)  # ends at 90: the target is 89


def test_bytes_are_those_until_the_first_evaluation_that_reaches_the_target() -> None:
    finding = found([course(60, 80, 89, 88, 90, each_bytes=10)], [DENSE])
    assert (finding.up_bytes, finding.down_bytes) == (30, 300)
    assert finding.gap_points == pytest.approx(1.0)  # 90 less the mean of 89, 88 and 90
    assert found([DENSE], [DENSE]).up_bytes == 300


def test_each_seed_has_its_own_target_and_bytes_are_means() -> None:
    easy = course(40, 70, 70, 70)  # the target is 69
    finding = found([course(89, 90, 90), course(60, 69, 70)], [DENSE, easy])
    assert finding.up_bytes == 150


def test_a_seed_that_never_arrives_leaves_no_bytes() -> None:
    finding = found([course(89, 90, 90), course(88, 88, 88)], [DENSE, DENSE])
    assert (finding.up_bytes, finding.down_bytes) == (None, None)


def test_the_best_needs_the_fewest_bytes_within_a_point() -> None:
    few, fewer, none = Method(4, "top10"), Method(4, "top1"), Method(2, "top1")
    findings = {
        BASELINE: Finding(0.9, 0.0, 1.0, 300.0, 300.0),
        few: Finding(0.895, 0.5, 0.5, 30.0, 30.0),
        fewer: Finding(0.88, 2.0, 0.5, 3.0, 3.0),  # got there once, and did not stay
        none: Finding(0.8, 10.0, 0.5, None, None),
    }
    assert best(findings) == few
    assert best({BASELINE: findings[BASELINE], fewer: findings[fewer]}) == BASELINE
