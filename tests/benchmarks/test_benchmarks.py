"""The benchmarks run: each peer that needs nothing installed, at the smallest size, and the report about it."""

from __future__ import annotations

import pytest
from benchmarks.dealing import list_scheduling, lower_bound
from benchmarks.goals import GOALS
from benchmarks.measure import run
from benchmarks.peers import PEERS, load, workloads_of
from benchmarks.peers.pausing import DONE, GUARDED, PausingPeer, looks, many, ran, size
from benchmarks.workloads import WORKLOADS

from benchmarks import makespan, mcp_latency, plot, report

FOREIGN = {"autogen-core", "deepagents", "langgraph", "openai-agents", "pykka"}
OWN = [name for name in PEERS if name not in FOREIGN]
TINY = {
    "workers": 2,
    "tasks": 6,
    "warm_tasks": 2,
    "scale": 0.001,
    "repetitions": 1,
    "agents": 5,
    "tells": 2,
    "seconds": 0.005,
    "warm": 1,
    "turns": 3,
    "clients": 2,
    "runs": 2,
}
SHORT = {"w1", "w2", "w3-10k", "w4", "w5", "w6", "w8-writer", "w8-acked", "w9", "w10", "w11", "w12"}


@pytest.mark.parametrize("peer", OWN)
async def test_every_workload_of_a_peer_gives_numbers(peer: str) -> None:
    for workload in sorted(workloads_of(peer) & SHORT):
        metrics = await run(peer, workload, TINY)
        assert metrics
        assert all(isinstance(value, float | int) for value in metrics.values())


@pytest.mark.parametrize("name", ["pydantic-ai", "ours-subagents-kept"])
async def test_w12_what_was_kept_is_enough_to_go_on_and_grows_with_what_waits(name: str) -> None:
    peer = load(name)
    assert isinstance(peer, PausingPeer)
    await peer.setup()
    sizes = []
    for script, guarded in (GUARDED, 1), (many(3), 3), ((*looks(5), *many(3)), 3):
        peer.prepare(script)
        before = ran["save"]
        kept = await peer.keep(await peer.pause())
        assert ran["save"] == before, "nothing guarded ran before the approval"
        assert await peer.resume(await peer.restore(kept)) == DONE
        assert ran["save"] == before + guarded
        sizes.append(size(kept))
    assert sizes == sorted(set(sizes))
    await peer.teardown()


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


def agent_records(us: float) -> list[report.Record]:
    """One measurement of W10 for each; the bare agent takes 100 µs."""
    return [
        {"peer": peer, "workload": "w10", "round": 0, "metrics": {"p50_us": took}}
        for peer, took in (("ours-subagents", us), ("pydantic-ai", 100.0))
    ]


def test_the_part_about_sub_agents_is_also_written_on_its_own() -> None:
    found = {("ours-subagents", "w10"): {"groups": [("our subagents/", 0.3)], "functions": [], "threads": []}}
    whole = report.write([*records(125.0), *agent_records(150.0)], found)
    main, _, part = whole.partition("## Sub-agents")
    assert "| W2 |" in main
    assert (
        "| W10 | a sub-agent's run, beside bare Pydantic AI | at most 1.25x | 1.5x (1.5..1.5) | **missed** |"
        in part
    )
    assert "our subagents/ 30%" in part
    assert "W10" not in main
    anew = report.with_agents(whole, agent_records(110.0), {})
    assert anew.startswith(main), "the rest stays as it was"
    assert "1.1x (1.1..1.1) | met |" in anew
    assert "1.5x" not in anew
    assert anew.count("## Sub-agents\n") == 1


@pytest.mark.slow
async def test_a_tool_call_over_mcp_is_measured_each_way() -> None:
    found = await mcp_latency.measure(calls=2, rounds=2, warm=1)
    assert {len(rounds) for rounds in found.values()} == {2}
    assert all(value > 0 for rounds in found.values() for one in rounds for value in one)
    found["switchboard_status, stdio"] = [[1.2], [1.4], [1.3]]
    found["a tool that does nothing, stdio"] = [[1.0], [1.0], [1.0]]
    row = "| switchboard_status, stdio | 1.30 | 1.40 | 1.30x (1.20..1.40) | met |"
    assert row in report.write(records(125.0), {}, mcp=mcp_latency.table(found))


def test_w5_the_strategies_in_virtual_time() -> None:
    durations = makespan.lognormal(1, 60, 1.0)
    spans = {name: makespan.virtually(makespan.batch(name, durations)) for name in makespan.STRATEGIES}
    assert spans["shared_queue"] == pytest.approx(list_scheduling(durations, makespan.WORKERS))
    assert spans["least_loaded"] == pytest.approx(spans["round_robin"]), "for a batch they are the same"
    longest_first = list_scheduling(sorted(durations, reverse=True), makespan.WORKERS)
    assert spans["longest_first"] == pytest.approx(longest_first)
    assert lower_bound(durations, makespan.WORKERS) <= longest_first < spans["shared_queue"]
    assert spans["shared_queue"] < spans["round_robin"]


def test_w5_arrivals_at_random_wait_least_for_a_shared_queue() -> None:
    durations = makespan.lognormal(1, 300, 1.0)
    waits = {
        name: sum(makespan.virtually(makespan.online(name, durations, 0.8, 1)))
        for name in ("round_robin", "least_loaded", "shared_queue")
    }
    assert waits["shared_queue"] < waits["least_loaded"] < waits["round_robin"]


def test_the_plot_shows_every_strategy() -> None:
    found = {f"{group}_{name}": 1.25 for group in ("file", "batch40", "batch200", "batch1000")
             for name in makespan.STRATEGIES}  # fmt: skip
    drawn = plot.makespans(found, makespan.STRATEGIES)
    assert drawn.count("<rect") == 16
    assert drawn.count("longest first") == 4
    assert "prefers-color-scheme: dark" in drawn
