"""Sums of updates: exact, robust, in one pass. Pure."""
