"""Experiments as files. Each is one command, and its results are files with their provenance."""
