// Drives a pool with npm's xen-api over JSON-RPC: it connects, mirrors every object by events, and waits for tasks.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const require = createRequire(`${process.env.PEER_MODULES}/`)
const { createClient } = require('xen-api')

const api = createClient({
  url: process.env.POOL_URL,
  auth: { user: process.env.POOL_USER, password: process.env.POOL_PASSWORD },
  allowUnauthorized: true,
})
await api.connect()
await api.objectsFetched

const vm = api.getObjectByUuid(process.env.VM_UUID)
assert.equal(vm.$type, 'VM')
assert.equal(vm.$VBDs.length, 2)
assert.equal(vm.$VBDs[0].$VDI.$SR.$type, 'SR')
assert.equal(api.pool.$master.enabled, true)

// A change is seen through events.
await api.call('VM.add_tags', vm.$ref, 'seen by events')
const deadline = Date.now() + 20000
while (!api.getObjectByUuid(vm.uuid).tags.includes('seen by events')) {
  assert.ok(Date.now() < deadline, 'no event for the new tag')
  await new Promise(resolve => setTimeout(resolve, 20))
}

// An asynchronous call is a task that is watched to its end; its result is a reference.
const reference = String(await api.callAsync('VM.snapshot', vm.$ref, 'by a peer')).match(/OpaqueRef:[^<]+/)[0]
const snapshot = await api.getRecord('VM', reference)
assert.equal(snapshot.is_a_snapshot, true)
assert.equal(snapshot.snapshot_of, vm.$ref)

// A transfer with a task of its own: the stream ends, then the task says that it went well.
const vbd = await api.getRecord('VBD', snapshot.VBDs[0])
const task = await api.call('task.create', 'export by a peer', '')
const answer = await api.getResource('/export_raw_vdi/', { query: { vdi: vbd.VDI, format: 'vhd' }, task })
let bytes = 0
let head
for await (const chunk of answer.body ?? answer) {
  head ??= chunk.subarray(0, 8).toString()
  bytes += chunk.length
}
assert.equal(head, 'conectix')
assert.ok(bytes > 3584, `${bytes} bytes are no VHD`)

await assert.rejects(api.call('VM.start', vm.$ref, false, false), { code: 'VM_BAD_POWER_STATE' })
await api.disconnect()
process.exit(0)
