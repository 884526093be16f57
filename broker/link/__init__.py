"""The connection to a broker: its interface, MQTT, an in-memory twin, and reconnecting."""
