"""The report: one self-contained page that a person opens first."""
