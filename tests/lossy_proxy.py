"""A PostgreSQL server as seen over a network that fails at the worst moment."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SOCKET = ".s.PGSQL.5432"


@contextmanager
def losing_the_answer_to_commit(server_directory: Path, own_directory: Path) -> Iterator[threading.Event]:
    """Relay `own_directory`'s PostgreSQL socket to the server's.

    While the yielded event is set, the next COMMIT reaches the server and is answered, but the answer is lost
    with the connection; then the event is cleared and all is well again.
    """
    armed = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own_directory / _SOCKET))
        listener.listen()
        threading.Thread(target=_accept, args=(listener, server_directory, armed), daemon=True).start()
        yield armed


def _accept(listener: socket.socket, server_directory: Path, armed: threading.Event) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the test is over
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(server_directory / _SOCKET))
        threading.Thread(target=_serve, args=(client, server, armed), daemon=True).start()


def _serve(client: socket.socket, server: socket.socket, armed: threading.Event) -> None:
    commit_sent = threading.Event()
    with client, server:
        asking = threading.Thread(target=_relay_questions, args=(client, server, armed, commit_sent))
        asking.start()
        while (answer := _receive(server)) and not commit_sent.is_set():
            client.sendall(answer)
        armed.clear()
        for end in (client, server):
            with suppress(OSError):  # that end has gone already
                end.shutdown(socket.SHUT_RDWR)
        asking.join()


def _relay_questions(
    client: socket.socket, server: socket.socket, armed: threading.Event, commit_sent: threading.Event
) -> None:
    while question := _receive(client):
        if armed.is_set() and b"COMMIT" in question:
            commit_sent.set()
        server.sendall(question)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""
