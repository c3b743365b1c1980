"""Downstream tasks: an encoder fine-tuned and measured on labelled data, ours or anybody's (docs/downstream.md)."""
