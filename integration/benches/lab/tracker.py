"""A tracker (BEP 3, BEP 23) for one torrent at a time, in a thread: how every program finds its peers.

It knows who listens where by the port alone (`world.host`), because not every program sends from the address it
listens at.
"""
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from .payload import TRACKER, bencode


class QuietServer(ThreadingHTTPServer):
    """Says nothing when a program ends in the middle of its good-bye."""
    daemon_threads = True

    def handle_error(self, *_):
        pass


class Tracker:
    """Listens from the start; `reset` before each run."""

    def __init__(self, address_of_port):
        self.address_of_port = address_of_port
        self.peers = {}
        tracker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                # What is percent-encoded is bytes, not text.
                query = parse_qs(urlsplit(self.path).query, encoding="latin-1")
                body = tracker.answer(int(query["port"][0]), query.get("event", [""])[0])
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = QuietServer(TRACKER, Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def reset(self, *peers):
        """Forgets everybody; from now on `peers`, (address, port) each, are told to whoever asks."""
        self.peers = {port: address for address, port in peers}

    def answer(self, port, event):
        others = dict(self.peers)
        others.pop(port, None)
        if event == "stopped":
            self.peers.pop(port, None)
        elif address := self.address_of_port(port):
            self.peers[port] = address
        compact = b"".join(socket.inet_aton(address) + struct.pack(">H", port) for port, address in others.items())
        return bencode({"interval": 60, "min interval": 5, "peers": compact})
