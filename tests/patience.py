"""How long a test waits before it says that something hangs. It is no fact about speed: machines are loaded."""

PATIENCE_S = 300.0
