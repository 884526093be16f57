"""Programs that carry messages: mosquitto where it is installed, and an embedded broker."""
