"""The model that is deployed on a board: where it lies, how good it is there, and how programs ask it."""
