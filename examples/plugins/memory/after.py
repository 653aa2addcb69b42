"""How long after their return they were complete: `cargo run --release -- SCENARIO ... --json | python3 after.py GROUP RETURN`.

RETURN is the fault's `until` in seconds. Who was complete before it is left out.
"""

import json
import sys

group, back = sys.argv[1], float(sys.argv[2])
for variant in json.load(sys.stdin)["variants"]:
    peers = [peer for run in variant["reports"] for peer in run["peers"] if peer["name"].rsplit(" ", 1)[0] == group]
    after = sorted(peer["joined"] + peer["complete"] - back for peer in peers if peer["complete"] is not None)
    after = [time for time in after if time > 0]
    by = [f"{share} % by {after[len(after) * share // 100 - 1]:.1f} s" for share in [50, 90, 100] if after]
    print(f"{variant['label']}: {len(after)} of {len(peers)};", ", ".join(by))
