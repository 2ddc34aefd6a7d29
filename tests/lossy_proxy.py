"""A PostgreSQL server as seen over a network that fails at the worst moment."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import define, field
from sqlalchemy.engine import URL, make_url

_SOCKET = ".s.PGSQL.5432"


@define(eq=False)
class Network:
    """Relays a PostgreSQL socket, and fails when it is told to.

    Attributes:
        url: of the database, through this network.
        losing_commit: while set, the next COMMIT costs its connection before it is answered; then it is cleared.
        delivering: whether that COMMIT reaches the server all the same.
        staying_down: whether no connection can be made after that.
        down: while set, no connection can be made.
    """

    url: URL
    losing_commit: threading.Event = field(factory=threading.Event)
    delivering: bool = True
    staying_down: bool = False
    down: threading.Event = field(factory=threading.Event)

    def lose(self) -> None:
        """Note that a COMMIT was lost."""
        if self.staying_down:
            self.down.set()
        self.losing_commit.clear()


@contextmanager
def lossy_network(postgresql_url: str, own_directory: Path) -> Iterator[Network]:
    """Reach the database of a socket's URL through a network that can lose a COMMIT."""
    url = make_url(postgresql_url)
    network = Network(url.update_query_dict({"host": str(own_directory)}))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own_directory / _SOCKET))
        listener.listen()
        server = Path(str(url.query["host"]))
        threading.Thread(target=_accept, args=(listener, server, network), daemon=True).start()
        yield network


def _accept(listener: socket.socket, server_directory: Path, network: Network) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the test is over
        if network.down.is_set():
            client.close()
            continue
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(server_directory / _SOCKET))
        threading.Thread(target=_serve, args=(client, server, network), daemon=True).start()


def _serve(client: socket.socket, server: socket.socket, network: Network) -> None:
    commit_sent = threading.Event()
    with client, server:
        asking = threading.Thread(target=_relay_questions, args=(client, server, network, commit_sent))
        asking.start()
        while (answer := _receive(server)) and not commit_sent.is_set():
            client.sendall(answer)
        for end in (client, server):
            with suppress(OSError):  # that end has gone already
                end.shutdown(socket.SHUT_RDWR)
        asking.join()


def _relay_questions(
    client: socket.socket, server: socket.socket, network: Network, commit_sent: threading.Event
) -> None:
    while question := _receive(client):
        if network.losing_commit.is_set() and b"COMMIT" in question:
            commit_sent.set()
            network.lose()
            if not network.delivering:
                break
        server.sendall(question)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""
