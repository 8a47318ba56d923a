"""Bytes for the workers of this machine, each of which fetches them itself.

In the pipe that starts a worker more than some kilobytes would be a trap: a worker that dies before it has read them
leaves the process that starts it blocked for good, since that one holds the pipe's other end as well.
"""

import hashlib
import time
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from threading import Thread

from gracile.errors import EvaluationError

# Seconds before the next try to let someone in.
_PAUSE = 0.05
# Seconds until the socket is closed, at most.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """Where bytes can be fetched, and what tells that they are the right ones."""

    address: str
    digest: str

    def fetched(self) -> bytes:
        """The bytes.

        Raises:
            EvaluationError: others came, or none.
        """
        try:
            with Client(self.address) as connection:
                found: bytes = connection.recv_bytes()
        except (OSError, EOFError) as error:
            raise EvaluationError(f"the work could not be fetched from {self.address}: {error}") from error
        if hashlib.sha256(found).hexdigest() != self.digest:
            raise EvaluationError(f"what came from {self.address} is not the work that was sent")
        return found


class Sender:
    """Hands ``payload`` to whoever connects, until it is closed.

    It listens on a socket in a folder that only this user can enter.  Each connection has a thread of its own, so that
    a receiver that stops in the middle holds up nobody.
    """

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._listener = Listener()
        self._open = True
        self.parcel = Parcel(str(self._listener.address), hashlib.sha256(payload).hexdigest())
        self._thread = Thread(target=self._listen, name="gracile-sender", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with self._listener:
            while True:
                try:
                    connection = self._listener.accept()
                except OSError:
                    if not self._open:
                        return
                    # The other end has gone before it was let in, or this process has too many files open.
                    time.sleep(_PAUSE)
                    continue
                if not self._open:
                    connection.close()
                    return
                Thread(target=self._send, args=(connection,), daemon=True).start()

    def _send(self, connection: Connection) -> None:
        with connection:
            try:
                connection.send_bytes(self._payload)
            except OSError:
                # The receiver has died; that is noticed where its results are missed.
                return

    def close(self) -> None:
        """No one is served any more."""
        if not self._open:
            return
        self._open = False
        try:
            # Nothing else wakes a thread that waits for connections.
            Client(self.parcel.address).close()
        except OSError:
            return
        self._thread.join(_PATIENCE)
