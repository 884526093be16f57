"""Which model devices predict with, and how a new one gets there: decisions without I/O."""
