"""Long commands that are killed go on as if nothing had happened: a short run of the campaign of kills."""

from __future__ import annotations

import pytest

from benchmarks.campaign.kills import COMMANDS, run


@pytest.mark.long
def test_killed_commands_go_on_as_if_nothing_had_happened() -> None:
    counts = run(20_261_128, 2)
    assert counts["attempts"] >= 2 * len(COMMANDS)
    assert counts["errors"] == [] and counts["ok"] == counts["attempts"]
