"""Runs in files: where they are, what they hold, and their figures by name."""
