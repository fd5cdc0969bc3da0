"""Recipes: YAML files that list stages with their options; read, checked as a whole, run, and described to editors."""
