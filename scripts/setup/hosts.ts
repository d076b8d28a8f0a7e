// Which hosts only this machine or its network can reach.
import { BlockList, isIP } from 'node:net'

/** Of https://www.iana.org/assignments/iana-ipv4-special-registry and that for IPv6. */
const networks: readonly (readonly [string, number])[] = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
  ['::', 127],
  ['fc00::', 7],
  ['fe80::', 10],
]
const NAMES = /^(?:[^.]+|.+\.(?:localhost|local|internal|home\.arpa))$/

/** Whether a host is this machine or one of a private network. A name without a dot is one, too. */
export function isPrivateHost({ hostname }: URL): boolean {
  const name = hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '')
  const family = isIP(name)
  if (family === 0) return NAMES.test(name)
  const list = new BlockList()
  for (const [network, prefix] of networks) {
    list.addSubnet(network, prefix, network.includes(':') ? 'ipv6' : 'ipv4')
  }
  // An IPv4 address in an IPv6 one is checked as such.
  return list.check(name, family === 6 ? 'ipv6' : 'ipv4')
}
