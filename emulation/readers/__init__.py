"""Readers of data sets: one file a format, each with a function that returns `Raw` samples."""
