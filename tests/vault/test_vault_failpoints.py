from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from esper_es import failpoints

Fork = Callable[[Callable[[], object]], int]


def reaching(target: str, name: str, times: int) -> Callable[[], None]:
    def work() -> None:
        os.environ[failpoints.VARIABLE] = target
        for _ in range(times):
            failpoints.reach(name)

    return work


def test_a_point_that_nobody_armed_does_nothing() -> None:
    failpoints.reach("vault.hashed")


def test_the_environment_kills_at_the_named_point(in_another_process: Fork) -> None:
    assert in_another_process(reaching("a.point", "a.point", 1)) == -signal.SIGKILL


def test_the_environment_leaves_other_points_alone(in_another_process: Fork) -> None:
    assert in_another_process(reaching("a.point", "another.point", 1)) == 0


@pytest.mark.parametrize(("times", "code"), [(2, 0), (3, -signal.SIGKILL)])
def test_a_number_after_the_name_counts_the_hits(in_another_process: Fork, times: int, code: int) -> None:
    assert in_another_process(reaching("a.point@3", "a.point", times)) == code


def test_raising_throws_at_its_point_only() -> None:
    with failpoints.raising("a.point", OSError("full")):
        failpoints.reach("another.point")
        with pytest.raises(OSError, match="full"):
            failpoints.reach("a.point")


def test_raising_can_wait_for_a_later_hit() -> None:
    with failpoints.raising("a.point", OSError("full"), hit=2):
        failpoints.reach("a.point")
        with pytest.raises(OSError, match="full"):
            failpoints.reach("a.point")


def test_raising_ends_with_its_block() -> None:
    with failpoints.raising("a.point", OSError("full")):
        pass
    failpoints.reach("a.point")
