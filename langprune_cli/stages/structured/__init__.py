"""Structured patterns: chooses parts that leave a model whole, and cuts the smaller model."""
