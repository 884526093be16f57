"""HOW one device learns: the pure session, then trainer, activation cache, data, the asyncio service and the CLI."""
