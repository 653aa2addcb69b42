"""The other end of downloads and of seeding: a source and a sink that do as little as can be, the same for all.

    fast_peers.py source INFO_HASH FILE PIECE_LENGTH ADDRESS PORT
    fast_peers.py sink   INFO_HASH FILE PIECE_LENGTH ADDRESS PORT FROM_ADDRESS

The source keeps the payload mapped and answers all requests it has read with one vectored send. The sink dials,
asks for pieces in a shuffled order (blocks of a piece in a row, DEPTH requests in flight), drops what arrives, and
prints the seconds from its first request to the last block. Both speak plain BEP 3 (and BEP 10, for `reqq`).
"""
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time

BLOCK = 16 * 1024
DEPTH = 512
BATCH = 256
PROTOCOL = b"\x13BitTorrent protocol"
CHOKE, UNCHOKE, INTERESTED, BITFIELD, REQUEST, PIECE, EXTENDED = 0, 1, 2, 5, 6, 7, 20


def handshake(info_hash, extensions):
    reserved = b"\0\0\0\0\0\x10\0\0" if extensions else bytes(8)
    return PROTOCOL + reserved + info_hash + b"-XX0001-" + os.urandom(12)


def message(kind, payload=b""):
    return struct.pack(">IB", 1 + len(payload), kind) + payload


def receive_exactly(stream, count):
    data = b""
    while len(data) < count:
        chunk = stream.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def messages(stream, size):
    """Yields the messages of each read: a list of (kind, start, end) and the buffer they lie in."""
    buffer = bytearray(size)
    view, end = memoryview(buffer), 0
    while count := stream.recv_into(view[end:]):
        end += count
        at, found = 0, []
        while end - at >= 4:
            length = int.from_bytes(view[at:at + 4], "big")
            if end - at - 4 < length:
                break
            if length:
                found.append((buffer[at + 4], at + 5, at + 4 + length))
            at += 4 + length
        yield found, buffer
        buffer[:end - at] = buffer[at:end]
        end -= at


def send_all(stream, parts):
    sent = stream.sendmsg(parts)
    for part in parts:
        if sent < len(part):
            stream.sendall(memoryview(part)[sent:])
            sent = 0
        else:
            sent -= len(part)


def serve(stream, info_hash, data, piece_length):
    theirs = receive_exactly(stream, 20)
    if theirs != PROTOCOL:
        return  # an attempt at encryption: whoever is refused comes back in plain
    theirs += receive_exactly(stream, 48)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    extensions = theirs[25] & 0x10
    stream.sendall(handshake(info_hash, extensions))
    if extensions:
        stream.sendall(message(EXTENDED, b"\0d1:mde4:reqqi2000ee"))
    pieces = len(data) // piece_length
    have = (((1 << pieces) - 1) << (-pieces % 8)).to_bytes((pieces + 7) // 8, "big")
    stream.sendall(message(BITFIELD, have) + message(UNCHOKE))
    for found, buffer in messages(stream, 1 << 18):
        parts = []
        for kind, start, _ in found:
            if kind == REQUEST:
                piece, offset, length = struct.unpack_from(">III", buffer, start)
                at = piece * piece_length + offset
                parts += (struct.pack(">IBII", 9 + length, PIECE, piece, offset), data[at:at + length])
        for at in range(0, len(parts), 2 * BATCH):
            send_all(stream, parts[at:at + 2 * BATCH])


def source(info_hash, path, piece_length, address):
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
    data = memoryview(mapped)

    def work(stream):
        try:
            with stream:
                serve(stream, info_hash, data, piece_length)
        except (EOFError, OSError):
            pass  # the client has what it wanted

    with socket.create_server(address, backlog=64) as listener:
        while True:
            threading.Thread(target=work, args=(listener.accept()[0],), daemon=True).start()


def greet(info_hash, address, own_address):
    """Connects and shakes hands; a few times, because a program may open its port before it serves the torrent."""
    for attempts_left in reversed(range(5)):
        stream = socket.create_connection(address, 60, (own_address, 0))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            stream.sendall(handshake(info_hash, False))
            if receive_exactly(stream, 68)[28:48] != info_hash:
                raise ValueError("another torrent")
            return stream
        except (EOFError, ConnectionResetError):
            stream.close()
            if not attempts_left:
                raise
            time.sleep(0.3)


def sink(info_hash, path, piece_length, address, own_address):
    pieces = list(range(os.path.getsize(path) // piece_length))
    random.Random(7).shuffle(pieces)
    requests = memoryview(b"".join(
        message(REQUEST, struct.pack(">III", piece, offset, BLOCK))
        for piece in pieces for offset in range(0, piece_length, BLOCK)
    ))
    total = len(requests) // 17
    stream = greet(info_hash, address, own_address)
    stream.sendall(message(INTERESTED))
    asked = got = 0
    start = None
    for found, _ in messages(stream, 1 << 20):
        for kind, begin, end in found:
            if kind == PIECE:
                got += 1
                assert end - begin == 8 + BLOCK
            elif kind == UNCHOKE:
                start = start or time.monotonic()
            elif kind == CHOKE and start:
                raise ValueError(f"choked after {got} of {total} blocks")
        if got == total:
            print(time.monotonic() - start, flush=True)
            return
        more = min(total, got + DEPTH) - asked
        if start and (more >= DEPTH // 8 or asked + more == total) and more > 0:
            stream.sendall(requests[asked * 17:(asked + more) * 17])
            asked += more
    raise EOFError(f"closed after {got} of {total} blocks")


def main():
    role, info_hash, path, piece_length, host, port, *own_address = sys.argv[1:]
    address = (host, int(port))
    if role == "source":
        source(bytes.fromhex(info_hash), path, int(piece_length), address)
    else:
        sink(bytes.fromhex(info_hash), path, int(piece_length), address, *own_address)


if __name__ == "__main__":
    main()
