"""Experiments on real text: each module states its question and what counts before it runs, and one command repeats it."""
