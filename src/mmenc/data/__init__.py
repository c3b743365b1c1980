"""Data: from raw text to packed, masked token rows."""
