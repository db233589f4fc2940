"""Bulk prediction: many images into a file, in any number of processes, parts and attempts."""
