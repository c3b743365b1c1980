"""Ours against a peer, side by side in one run; figures that were measured lie in `results/`."""
