"""The watch over a client, in its courier."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Channel

    from bellis.service.connection import Connection

LOOK_S = 0.5
"""How often it is looked whether the client's process is there."""


class Watch:
    """Notices that the client has gone, whatever the courier waits for.

    Parameters
    ----------
    channel
        To the client.
    parent
        The client's process.
    connection
        What is interrupted then.
    """

    def __init__(self, channel: Channel, parent: int, connection: Connection) -> None:
        self.parent = parent
        self._fd = channel.fileno()
        self._connection = connection
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="bellis-courier", daemon=True)
        self._thread.start()

    def is_there(self) -> bool:
        """Whether the client's process is there; one that it forked may hold its end of the channel open."""
        return os.getppid() == self.parent

    def end(self) -> None:
        """Interrupt nothing from now on."""
        self._ending.set()
        self._thread.join(2 * LOOK_S)

    def _look(self) -> None:
        poll = select.poll()
        poll.register(self._fd, 0)
        while not poll.poll(1000 * LOOK_S) and self.is_there():
            if self._ending.is_set():
                return
        if not self._ending.is_set():
            self._connection.interrupt()
