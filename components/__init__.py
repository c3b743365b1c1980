"""Kubeflow faces of the steps: only the standard library and kfp at import time; the work is in src/mmenc."""
