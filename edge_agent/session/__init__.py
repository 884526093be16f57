"""What a device does next. Pure: no I/O, no clock."""
