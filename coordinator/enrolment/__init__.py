"""Who may take part, and who speaks: certificates, the broker's configuration, mandates and the way onto a board."""
