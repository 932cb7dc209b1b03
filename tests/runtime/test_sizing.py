"""How large leases are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bellis.runtime.cell import LARGEST_LEASE
from bellis.runtime.sizing import ALONE, LOCAL, REMOTE, Pace


def paced(mean_s: float, blocks: int = 100) -> Pace:
    pace = Pace()
    pace.note(blocks, blocks * mean_s)
    return pace


def test_the_first_blocks_of_a_task_travel_alone() -> None:
    pace = Pace()
    for _ in range(ALONE):
        assert pace.size(remaining=10**6, ready=10**6, slots=2) == 1
        assert not pace.is_short(1)
        pace.note(1, 1e-5)
    assert pace.size(remaining=10**6, ready=10**6, slots=2) > 1


@given(
    mean_s=st.floats(0, 1e4),
    remaining=st.integers(1, 10**12),
    ready=st.integers(1, 10**12),
    slots=st.integers(1, 1000),
)
def test_a_lease_is_never_empty_and_never_larger_than_a_cell(
    mean_s: float, remaining: int, ready: int, slots: int
) -> None:
    assert 1 <= paced(mean_s).size(remaining=remaining, ready=ready, slots=slots) <= LARGEST_LEASE


@given(mean_s=st.floats(1e-4, 1e4), remaining=st.integers(1, 10**9))
def test_a_lease_is_about_as_long_as_it_should_be(mean_s: float, remaining: int) -> None:
    size = paced(mean_s).size(remaining=remaining, ready=remaining, slots=2)
    assert (size - 1) * mean_s <= LOCAL.target_s


def test_a_long_block_travels_alone_and_short_ones_by_the_thousand() -> None:
    assert paced(1.0).size(remaining=10**6, ready=10**6, slots=2) == 1
    assert paced(0.05).size(remaining=10**6, ready=10**6, slots=2) == 2
    assert paced(1e-7).size(remaining=10**6, ready=10**6, slots=2) == LARGEST_LEASE


def test_the_tail_is_cut_small_so_that_all_end_together() -> None:
    pace = paced(0.01)
    sizes = [pace.size(remaining=n, ready=n, slots=2) for n in (1000, 40, 20, 8, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[2] <= 3


def test_a_lease_is_not_made_shorter_than_is_worth_a_message() -> None:
    assert paced(1e-5).size(remaining=300, ready=300, slots=100) * 1e-5 >= LOCAL.least_s / 2


def test_the_newest_durations_weigh_most_after_a_while_but_not_alone() -> None:
    pace = paced(0.001)
    pace.note(1, 1.0)
    assert 0.001 < pace.mean_s < 1.0
    for _ in range(50):
        pace.note(1, 1.0)
    assert pace.mean_s > 0.99


def test_nothing_is_learned_from_no_blocks() -> None:
    pace = paced(0.5)
    pace.note(0, 0.0)
    assert (pace.blocks, pace.mean_s) == (100, 0.5)


def test_a_worker_has_the_next_lease_at_hand_only_while_leases_are_short() -> None:
    assert paced(1e-5).is_short(10)
    assert not paced(1.0).is_short(1)


def test_leases_of_workers_elsewhere_are_longer_and_have_their_own_bound() -> None:
    pace = Pace(REMOTE)
    pace.note(100, 100 * 1e-6)
    assert pace.size(remaining=10**6, ready=10**6, slots=2) == REMOTE.most_blocks
    assert pace.is_short(REMOTE.most_blocks)
