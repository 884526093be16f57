"""A federation of real processes over a real broker, on one machine, built to be broken on purpose."""
