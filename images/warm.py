"""Imports once what the steps import, so that the image holds the bytecode of just that; what is missing fails the build."""

import importlib

for name in (
    "great_expectations",
    "kfp.dsl.executor_main",
    "numpy",
    "optimi",
    "pandas",
    "pydantic",
    "regex",
    "rfc8785",
    "rich.progress",
    "s3fs",
    "safetensors.torch",
    "tokenizers",
    "torch",
    "transformers.models.modernbert.modeling_modernbert",
    "yaml",
    "zstandard",
):
    importlib.import_module(name)
