"""What ``lamina-agent`` does besides taking part: one module a subcommand."""
