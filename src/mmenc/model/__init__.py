"""The ModernBERT encoder and its conversion to and from transformers."""
