"""Lamina: federated learning over MQTT for fleets of unequal edge and IoT boards.

The packages stand in top-level folders of the repository. In a checkout, this folder has a symbolic link to each, so
that editors, type checkers and an editable installation find `lamina.broker`; the build copies the folders below
`lamina/` in the wheel.
"""
