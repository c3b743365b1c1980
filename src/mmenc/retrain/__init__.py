"""Retraining from CI: what a change would retrain, what it costs, what became better (docs/retraining.md)."""
