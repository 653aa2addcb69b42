#!/usr/bin/env python3
"""Castanet plugin: tells of the peers, one ADDRESS:PORT a line, in a text file or at an http(s) URL that it watches.
    castanet get file.torrent --plugin 'friends=python3 friends.py FILE-OR-URL'"""
import json, queue, sys, threading, urllib.request

SOURCE, EVERY = sys.argv[1], 5  # seconds until it looks again
inbox = queue.Queue()  # what the engine says, read by a thread: so we can wait for it and for the clock
wanted, told = {}, {}  # by torrent: how many peers it wants, and which it was told of

def say(**message):
    print(json.dumps(message), flush=True)

def listen():
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put({"type": "stop"})  # stdin is closed: the engine is gone

def peers():
    web = SOURCE.startswith(("http://", "https://"))
    with urllib.request.urlopen(SOURCE, timeout=4) if web else open(SOURCE, "rb") as source:
        return source.read(1 << 20).decode().split()[:1000]

say(type="hello", version=1, name="friends")
threading.Thread(target=listen, daemon=True).start()
message = {}
while message.get("type") != "stop":
    if message.get("type") in ("watch", "progress"):
        wanted[message["torrent"]] = message["wanted"]
    elif message.get("type") == "unwatch":
        del wanted[message["torrent"]]
    try:
        found = peers() if any(wanted.values()) else None  # rest while nobody is wanted
        for torrent in [torrent for torrent in wanted if wanted[torrent] and told.get(torrent) != found]:
            say(type="peers", torrent=torrent, peers=found)
            told[torrent] = found
    except (OSError, ValueError) as error:
        say(type="condition", text=f"cannot read {SOURCE}: {error}")
    if message.get("type") == "sync":  # in a simulation, whose clock stands until we have said all
        say(type="synced", id=message["id"], wake_in=EVERY)
    try: message = inbox.get(timeout=EVERY)
    except queue.Empty: message = {}
