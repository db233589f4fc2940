"""The parts of run.json, by what they record."""
