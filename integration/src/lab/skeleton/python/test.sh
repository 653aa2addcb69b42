#!/bin/sh
# Does skeleton keep the contract, and does it bring anything? Needs `castanet` on the PATH, or its place in $CASTANET.
set -eu
cd "$(dirname "$0")"
castanet=${CASTANET:-castanet}
"$castanet" plugins check 'python3 skeleton.py 192.0.2.1:6881'
for plugins in pex+http-tracker pex+http-tracker+skeleton; do
    "$castanet" lab skeleton.toml --set plugins=$plugins --json >"$plugins.json"
done
python3 - <<'PY'
import json

without, with_it = (
    json.load(open(f"pex+http-tracker{plugin}.json"))["variants"][0]["reports"][0]["seekers"]["complete"]
    for plugin in ("", "+skeleton")
)
assert (without, with_it) == (0, 10), f"without it {without} of 10 were complete, with it {with_it}"
print("Without skeleton nobody was complete, with it all ten.")
PY
