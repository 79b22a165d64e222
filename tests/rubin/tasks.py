"""Work that tests give to other processes, which import it by this name."""

import socket


def hold(port):
    """A task without end; its open connection shows that it is alive."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.recv(1)
