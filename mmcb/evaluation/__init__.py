"""Evaluation: attempts to generations to verdicts to numbers and a report."""
