"""Kubeflow graphs over the steps; each fits on one screen."""
