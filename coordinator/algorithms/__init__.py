"""The algorithms: which layers are averaged when, by whom, and to what value. Pure."""
