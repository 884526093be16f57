"""Benchmarks: speed and memory. Each file answers one question, prints a table, and can write its figures as one flat
JSON object.

Run as ``python -m benchmarks.NAME [--quick] [--json FILE]``. What is compared is measured side by side in one run:
machines are shared and noisy, so trust the ratios.
"""
