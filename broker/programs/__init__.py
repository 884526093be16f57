"""What the programs of Lamina have in common at their command lines: flags, signals, and how they end."""
