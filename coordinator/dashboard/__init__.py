"""What an operator sees of a federation and may do to it: as a web page, as JSON for commands, and for Prometheus."""
