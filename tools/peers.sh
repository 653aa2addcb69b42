#!/usr/bin/env bash
# Installs the BitTorrent programs that the interop tests run beside Castanet, as far as they are missing:
# Debian's packages into the system (proxies, which would run as services there, into target/peers), those of PyPI and npm
# into target/peers. Says what it installs.
# Where it may not install system packages, it prints the one command that would, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${INTEROP_PEERS:-target/peers}

packages=()
need() { command -v "$1" >/dev/null || packages+=("$2"); }
need transmission-daemon transmission-daemon
need transmission-create transmission-cli
need aria2c aria2
need qbittorrent-nox qbittorrent-nox
need rtorrent rtorrent
need opentracker opentracker
need mktorrent mktorrent
need busybox busybox
# The program alone: the service is in another package.
[[ -x /usr/sbin/miniupnpd ]] || packages+=(miniupnpd-nftables)
[[ -x /usr/sbin/nft ]] || packages+=(nftables)
need ip iproute2
need nft nftables
need setpriv util-linux
need node nodejs
need npm npm
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

if ((${#packages[@]})); then
    install="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
    if ((EUID == 0)); then
        as_root=(env)
    elif sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        echo "The interop tests need programs that are not installed. This installs them:" >&2
        echo "  sudo sh -c '$install'" >&2
        exit 1
    fi
    echo "Installing from Debian: ${packages[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$install" >"${TMPDIR:-/tmp}/castanet-peers-apt.log" 2>&1 || {
        tail -n 20 "${TMPDIR:-/tmp}/castanet-peers-apt.log" >&2
        exit 1
    }
fi

mkdir -p "$peers"
# Unpacked, not installed: installing a proxy would start it as a service.
proxies=(microsocks dante-server libwrap0)
if [[ $(cat "$peers/proxies/.castanet" 2>/dev/null) != "${proxies[*]}" ]]; then
    echo "Unpacking from Debian into $peers: ${proxies[*]}"
    rm -rf "$peers/proxies"
    mkdir -p "$peers/proxies/packages"
    # apt's own user may not write there, which root does not mind.
    download() { (cd "$peers/proxies/packages" && apt-get download -q -o APT::Sandbox::User=root "${proxies[@]}" >/dev/null); }
    download 2>/dev/null || { ((EUID == 0)) && apt-get update -qq && download; } || {
        echo "The packages ${proxies[*]} cannot be downloaded; this may help: sudo apt-get update" >&2
        exit 1
    }
    for package in "$peers"/proxies/packages/*.deb; do
        dpkg --extract "$package" "$peers/proxies"
    done
    rm -r "$peers/proxies/packages"
    echo "${proxies[*]}" >"$peers/proxies/.castanet"
fi
if ! "$peers/venv/bin/python" -c 'import libtorrent; assert libtorrent.__version__.startswith("2.1.")' 2>/dev/null; then
    echo "Installing from PyPI into $peers: libtorrent 2.1"
    python3 -m venv --clear "$peers/venv"
    "$peers/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'libtorrent==2.1.*'
fi

modules=(bittorrent-tracker@11.2.3 bittorrent-dht@11.0.12 webtorrent-fixtures@2.0.3 create-torrent@6.1.3)
if [[ $(cat "$peers/node_modules/.castanet" 2>/dev/null) != "${modules[*]}" ]]; then
    echo "Installing from npm into $peers: ${modules[*]}"
    # Without scripts: one would compile WebRTC, which no test uses.
    npm install --prefix "$peers" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
        "${modules[@]}"
    echo "${modules[*]}" >"$peers/node_modules/.castanet"
fi
echo "All peer programs are here."
