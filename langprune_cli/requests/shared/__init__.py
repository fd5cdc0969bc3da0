"""Shared by requests: groups of options, the run of a request, and defaults found in the workspace."""
