#!/usr/bin/env bash
# httpx2 2.16.2 (the client of huggingface_hub 2.4): bytes that arrived before a connection was cut are not given out
# where chunks of a size are asked for.
#
# Guess: a last, smaller chunk with what arrived is given out before the error is raised, so that a download can go on
# behind it.
# Seen: of 100,000 bytes that arrived, iter_raw(65536) gives one chunk and the error; the other 34,464 bytes are lost.
# iter_raw() gives all of them, in chunks as they come. A range that is asked for anew behind what was given out fetches
# them twice; a client with chunks larger than what a connection lives for gets nowhere.
. "$(dirname "$0")/lib/environment.sh"
run_with 'httpx2==2.16.2' <<'PY'
import socket
import threading

import httpx2

ARRIVES, PROMISED = 100_000, 200_000


def serve(listening):
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % PROMISED + bytes(ARRIVES))


with socket.create_server(("127.0.0.1", 0)) as listening:
    threading.Thread(target=serve, args=(listening,), daemon=True).start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    given = {}
    for size in (None, 65536, ARRIVES + 1):
        given[size] = 0
        with httpx2.Client(trust_env=False) as client, client.stream("GET", address) as response:
            try:
                for chunk in response.iter_raw(size):
                    given[size] += len(chunk)
            except httpx2.TransportError as error:
                print(f"iter_raw({size}): {given[size]:,} of {ARRIVES:,} bytes, then {type(error).__name__}")
    assert given == {None: ARRIVES, 65536: 65536, ARRIVES + 1: 0}, given
PY
