"""Tests of units/: where channels and KV groups lie."""
