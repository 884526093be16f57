"""What serves a paper's comparison, and no user of a federation."""
