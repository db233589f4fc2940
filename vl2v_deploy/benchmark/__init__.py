"""Accuracy, latency and cost of a bundle beside its teacher; each measured engine in a process of its own.

Import from `run` and `options`; this file stays empty because every worker process imports it.
"""
