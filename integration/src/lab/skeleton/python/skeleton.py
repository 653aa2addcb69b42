"""skeleton: a discovery plugin for Castanet. The protocol: docs/PLUGIN-PROTOCOL.md.

Knows the peers that are named on its command line, and tells a torrent of a few of them at a time, while it wants more.
"""

import json
import random
import sys

FEW, PAUSE = 3, 10  # so many peers at a time, and seconds until the next


def say(**message):
    print(json.dumps(message), flush=True)


def main():
    known, torrents, now, fortune = sys.argv[1:], {}, 0.0, random.Random()
    say(type="hello", version=1, name="skeleton")
    for line in sys.stdin:
        message = json.loads(line)
        now = message.get("now", now)
        torrent = torrents.get(message.get("torrent"))
        match message["type"]:
            case "hello":
                fortune.seed(message["seed"])  # the only dice that a replay repeats
            case "watch":
                torrents[message["torrent"]] = {"wanted": message["wanted"], "next": now}
            case "progress" if torrent:
                torrent["wanted"] = message["wanted"]
            case "outcomes":
                pass  # what became of your peers (of all: overhears=True in hello): refused, gave so many bytes
            case "unwatch":
                torrents.pop(message["torrent"], None)
            case "sync":  # in the lab time stands until this is answered
                say(type="synced", id=message["id"], wake_in=PAUSE)
            case "stop":
                return
        for name, torrent in torrents.items():
            if known and torrent["wanted"] > 0 and now >= torrent["next"]:
                torrent["next"] = now + PAUSE
                say(type="peers", torrent=name, peers=fortune.sample(known, min(FEW, len(known))))


main()
