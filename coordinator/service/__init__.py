"""The coordinator's asyncio shell: it moves bytes between the network and the pure rooms."""
