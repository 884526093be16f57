"""The networks that come with Lamina: one file each, with a function ``build`` that returns its `Definition`."""
