"""Accuracy, latency and cost of a bundle beside its teacher; each measured engine in a process of its own.

Import from its modules; this file stays empty because every worker process imports it.
"""
