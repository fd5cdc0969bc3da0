"""Artifacts on disk: the workspace, manifests, locks, files that are whole or not there."""
