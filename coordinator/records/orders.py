"""What an operator ordered of a run is kept beside its state: a coordinator that is started again still obeys it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamina.models.errors import ConfigError
from lamina.models.storage.disk import DISK, Disk
from lamina.models.storage.replace import replace_file

FILE = Path("state", "orders.json")


class StandingOrders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator's standing orders.

    Attributes:
        paused: whether no further round begins.
        aside: devices that take no part, ascending.
    """

    paused: bool = False
    aside: tuple[str, ...] = ()

    def without(self, device: str) -> StandingOrders:
        """The orders with a device put aside."""
        return msgspec.structs.replace(self, aside=tuple(sorted({*self.aside, device})))

    def readmitting(self, device: str) -> StandingOrders:
        """The orders with a device taken back."""
        return msgspec.structs.replace(self, aside=tuple(name for name in self.aside if name != device))


_decoder = msgspec.json.Decoder(StandingOrders)


def read_orders(folder: Path, disk: Disk = DISK) -> StandingOrders:
    """The orders of the run in a folder; none where nothing was ordered.

    Raises:
        ConfigError: the file is no such orders.
    """
    path = folder / FILE
    try:
        with disk.open(path) as file:
            return _decoder.decode(file.read())
    except FileNotFoundError:
        return StandingOrders()
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}; remove the file to begin without orders") from error


def write_orders(folder: Path, orders: StandingOrders, disk: Disk = DISK) -> None:
    """Keep the orders, over a power cut too.

    Raises:
        OSError: the disk is full, or the like; then the orders before stand.
    """
    replace_file(folder / FILE, msgspec.json.encode(orders), disk)
