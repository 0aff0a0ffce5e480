"""Judging what a method drew: the metrics of the subject-driven generation papers."""
