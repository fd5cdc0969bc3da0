"""Tests of solving one block."""
