"""Studies: many runs, their tables and figures."""
