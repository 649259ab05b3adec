"""Services are killed, stopped and restarted under load: what a caller notices. The same harness prints the benchmark."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.failover import primary_faults, rolling_restart

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def check(row: dict[str, Any]) -> None:
    assert row["calls"] > 20
    assert row["lost"] == 0, row
    assert row["changes"] <= 2, "of state, for each transition"


async def test_no_call_is_lost_when_a_primary_is_killed_or_stopped() -> None:
    rows = await primary_faults(["kill", "stop"], rate=8, seconds=2.5)
    for row in rows.values():
        check(row)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_fifty_calls_a_second_hardly_notice() -> None:
    rows = await primary_faults(["kill", "stop"], rate=50, seconds=10)
    for row in rows.values():
        check(row)
    assert rows["kill"]["worst_ms"] <= 1000
    assert rows["stop"]["recovery_ms"] <= 2000
    assert max(row["back_ms"] for row in rows.values()) <= 5000


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_every_process_is_restarted_and_no_call_is_lost() -> None:
    row = await rolling_restart(rate=50, seconds=5)
    assert row["lost"] == 0, row
    assert row["restarted"] == 10
