"""What is wrong with this installation and this machine, each with its fix: `vl2v-deploy doctor`.

Imports the standard library alone; what may be missing or broken is imported inside a check, or in a child
process.
"""
