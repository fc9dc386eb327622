"""The benchmarks run: each peer that needs nothing installed, at the smallest size, and the report about it."""

from __future__ import annotations

import pytest
from benchmarks.goals import GOALS
from benchmarks.measure import run
from benchmarks.peers import PEERS, workloads_of
from benchmarks.workloads import WORKLOADS

from benchmarks import report

OWN = [name for name in PEERS if name not in {"autogen-core", "pykka"}]
TINY = {"agents": 5, "tells": 2, "seconds": 0.005, "warm": 1, "turns": 3, "clients": 2}
SHORT = {"w1", "w2", "w3-10k", "w8-writer", "w8-acked", "w9"}


@pytest.mark.parametrize("peer", OWN)
async def test_every_workload_of_a_peer_gives_numbers(peer: str) -> None:
    for workload in sorted(workloads_of(peer) & SHORT):
        metrics = await run(peer, workload, TINY)
        assert metrics
        assert all(isinstance(value, float | int) for value in metrics.values())


def test_goals_name_peers_and_workloads_that_exist() -> None:
    for goal in GOALS:
        peer, workload = goal.limits
        assert workload in WORKLOADS
        assert workload in workloads_of(peer)


def records(ours: float) -> list[report.Record]:
    rates = {"ours": ours, "aio-proto": 100.0}
    return [
        {
            "peer": peer,
            "workload": "w2",
            "round": number,
            "metrics": {"turns_per_s": rate},
            "calib_ms": [6.0, 6.0],
        }
        for number in range(3)
        for peer, rate in rates.items()
    ]


def test_a_ratio_is_taken_inside_its_round() -> None:
    (goal, *_) = report.missed(records(124.0))
    assert goal.text.endswith("beside the floor")
    assert report.per_round(report.rounds_of(records(124.0)), goal) == [1.24, 1.24, 1.24]
    assert report.missed(records(125.0)) == []


def test_the_report_puts_a_profile_under_a_missed_goal() -> None:
    found = {
        "groups": [("our runtime/", 0.7)],
        "functions": [("runtime/turn.py:take_turn", 0.3)],
        "threads": [],
    }
    text = report.write(records(50.0), {("ours", "w2"): found})
    assert "0.5x (0.5..0.5) | **missed** |" in text
    assert "`runtime/turn.py:take_turn 30%`" in text
