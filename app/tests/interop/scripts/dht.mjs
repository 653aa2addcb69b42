// dht.mjs PEERS CONFIG: nodes of npm's bittorrent-dht. CONFIG is a JSON object: "nodes" (addresses to listen at), "know"
// (addresses of nodes that all of them begin with; the first of their own if there is none), and what the last one does
// once it knows somebody: "announce" ({info_hash, port}: a peer at its own IP address) or "find" (an info-hash). Every line
// on stdout is a JSON object: {"nodes": [how many each knows]}, {"announced": true}, {"peer": "HOST:PORT"}.
const [folder, text] = process.argv.slice(2)
const { Client: DHT } = await import(`${folder}/node_modules/bittorrent-dht/index.js`)
const config = JSON.parse(text)
const split = address => ({ host: address.split(':')[0], port: Number(address.split(':')[1]) })
const say = what => console.log(JSON.stringify(what))

const all = config.nodes.map(address => {
  const dht = new DHT({ bootstrap: config.know ?? (address === config.nodes[0] ? false : [config.nodes[0]]) })
  dht.on('error', error => { console.error('error', error.message); process.exit(1) })
  dht.on('warning', error => console.error('warning', error.message))
  dht.listen(split(address).port, split(address).host)
  return dht
})
const last = all.at(-1)
last.on('peer', peer => say({ peer: `${peer.host}:${peer.port}` }))

function act () {
  const { announce, find } = config
  if (find) {
    // Nobody may have announced it yet.
    last.lookup(find, () => setTimeout(act, 500))
  } else if (announce) {
    last.announce(announce.info_hash, announce.port, error => error ? setTimeout(act, 500) : say({ announced: true }))
  }
}

let acts = false
setInterval(() => {
  const nodes = all.map(dht => dht.toJSON().nodes.length)
  say({ nodes })
  if (!acts && nodes.at(-1) > 0) {
    acts = true
    act()
  }
}, 200)
