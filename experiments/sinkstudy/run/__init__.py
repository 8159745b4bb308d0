"""The command line, the workflow, and its steps."""
