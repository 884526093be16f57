"""Writes those parts of the documentation that follow from the code: `python -m scripts.documents`."""
