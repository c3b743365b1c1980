"""mmenc: pretraining modern multilingual encoders as a pipeline that anyone can run."""

__version__ = "0.1.0"
