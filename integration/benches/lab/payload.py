"""Random payloads on tmpfs and their .torrent files (BEP 3), made without any of the programs that are compared."""
import concurrent.futures
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
TRACKER = ("10.77.0.1", 6969)
NAME = "payload.bin"


@dataclass(frozen=True)
class Torrent:
    """A .torrent file and the folder its payload lies in."""
    file: Path
    folder: Path
    size: int
    piece_length: int
    info_hash: str

    @property
    def payload(self):
        return self.folder / NAME


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def write_random(path, size):
    """Data that no program can compress, deduplicate or leave out as a hole."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def make_torrent(folder, size, piece_length, out):
    """Makes the payload unless it is there, hashes it, writes the .torrent file."""
    path = folder / NAME
    if not path.exists() or path.stat().st_size != size:
        write_random(path, size)

    def digest(index):
        return hashlib.sha1(os.pread(file.fileno(), piece_length, index * piece_length)).digest()

    with open(path, "rb") as file, concurrent.futures.ThreadPoolExecutor() as threads:
        pieces = b"".join(threads.map(digest, range(size // piece_length)))
    info = {"length": size, "name": NAME, "piece length": piece_length, "pieces": pieces}
    announce = f"http://{TRACKER[0]}:{TRACKER[1]}/announce"
    out.write_bytes(bencode({"announce": announce, "info": info}))
    return Torrent(out, folder, size, piece_length, hashlib.sha1(bencode(info)).hexdigest())
