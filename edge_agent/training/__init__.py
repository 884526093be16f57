"""How a step is run: engine, memory, activation cache."""
