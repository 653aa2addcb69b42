"""The least that each job can cost: plain loops of one thread, which any client has to do at least.

    floors.py check    FILE PIECE_LENGTH -              read the cached file, SHA-1 of each piece
    floors.py download FILE PIECE_LENGTH OUT PEER_CORE  receive by TCP a piece at a time, SHA-1, write to OUT
    floors.py seed     FILE PIECE_LENGTH -   PEER_CORE  read 256 KiB units of the cached file, send by TCP

Prints CPU seconds (user + system of the loop's process alone) and wall seconds. The other end of the connection is a
child on PEER_CORE (-1: any). The loops are C underneath: hashlib's SHA-1 is OpenSSL's, one call a piece.
"""
import hashlib
import os
import socket
import sys
import time

UNIT = 256 * 1024


def check(path, piece_length):
    buffer = memoryview(bytearray(piece_length))
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            hashlib.sha1(buffer).digest()


def download(stream, piece_length, out):
    buffer = memoryview(bytearray(piece_length))
    with open(out, "wb", buffering=0) as file:
        while count := stream.recv_into(buffer, piece_length, socket.MSG_WAITALL):
            hashlib.sha1(buffer[:count]).digest()
            file.write(buffer[:count])


def seed(stream, path):
    buffer = memoryview(bytearray(UNIT))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            stream.sendall(buffer[:count])


def send(stream, path):
    with open(path, "rb") as file:
        stream.sendfile(file)


def drain(stream):
    buffer = bytearray(1 << 20)
    while stream.recv_into(buffer):
        pass


def other_end(core, work, *arguments):
    """A child on `core` at the other end of a TCP connection; returns this end."""
    listener = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        stream = socket.create_connection(listener.getsockname())
        listener.close()
        os.sched_setaffinity(0, range(os.cpu_count()) if core < 0 else [core])
        work(stream, *arguments)
        os._exit(0)
    return listener.accept()[0]


def main():
    job, path, piece_length, out, core = sys.argv[1:]
    piece_length, core = int(piece_length), int(core)
    if job == "check":
        loop, arguments = check, (path, piece_length)
    elif job == "download":
        loop, arguments = download, (other_end(core, send, path), piece_length, out)
    else:
        loop, arguments = seed, (other_end(core, drain), path)
    wall, cpu = time.monotonic(), time.process_time()
    loop(*arguments)
    print(time.process_time() - cpu, time.monotonic() - wall, flush=True)


if __name__ == "__main__":
    main()
