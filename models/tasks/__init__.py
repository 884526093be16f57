"""The tasks that a network may have: for each, what its targets are, its loss, and its metrics, as functions of torch.

They are traced into the bundle's graphs, so that boards and coordinator run the same ones without torch. Begin reading
at `base`; `resolving` says which task a definition has.
"""
