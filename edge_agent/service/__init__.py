"""The agent's asyncio shell: it moves bytes between the network, the session and the learner."""
