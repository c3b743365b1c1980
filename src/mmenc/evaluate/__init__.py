"""Evaluation of every language on held-out text."""
