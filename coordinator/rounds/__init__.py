"""Who trains what in which round. Pure: no I/O, no clock."""
