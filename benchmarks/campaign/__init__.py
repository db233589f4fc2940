"""Many hostile inputs, by seed: what each part of the package answers them with (see run.py)."""
