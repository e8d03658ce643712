"""Drives a pool with the official Python client over XML-RPC: what a backup does, and the errors it meets."""

import base64
import os
import ssl
import time
import urllib.request

import XenAPI

url = os.environ["POOL_URL"]
insecure = ssl._create_unverified_context()


def expect(code, call, *arguments):
    try:
        call(*arguments)
    except XenAPI.Failure as failure:
        assert failure.details[0] == code, failure.details
    else:
        raise AssertionError(f"{code} was expected")


def wait(task):
    while api.task.get_status(task) == "pending":
        time.sleep(0.05)
    assert api.task.get_status(task) == "success", api.task.get_error_info(task)
    result = api.task.get_result(task)
    api.task.destroy(task)
    return result.removeprefix("<value>").removesuffix("</value>")


session = XenAPI.Session(url, ignore_ssl=True)
expect("SESSION_AUTHENTICATION_FAILED", session.login_with_password, "root", "wrong", "1.0", "peer")
session.login_with_password(os.environ["POOL_USER"], os.environ["POOL_PASSWORD"], "1.0", "peer")
api = session.xenapi

pool = list(api.pool.get_all_records().values())[0]
assert api.host.get_record(pool["master"])["enabled"] is True
expect("HANDLE_INVALID", api.VM.get_record, "OpaqueRef:00000000-0000-0000-0000-000000000000")
expect("UUID_INVALID", api.VM.get_by_uuid, "not a uuid")
expect("MESSAGE_METHOD_UNKNOWN", api.VM.no_such_method, "x")

vm = api.VM.get_by_uuid(os.environ["VM_UUID"])
record = api.VM.get_record(vm)
assert record["power_state"] == "Running" and len(record["VBDs"]) == 2
expect("VM_BAD_POWER_STATE", api.VM.start, vm, False, False)

# Events: everything as `add` first, then the change that we make.
first = api.event.__getattr__("from")(["vm", "vdi"], "", 1.0)
assert {event["operation"] for event in first["events"]} == {"add"}
api.VM.add_tags(vm, "peer")
more = api.event.__getattr__("from")(["vm"], first["token"], 5.0)
assert any(event["ref"] == vm and "peer" in event["snapshot"]["tags"] for event in more["events"]), more
assert int(more["valid_ref_counts"]["vm"]) == len(api.VM.get_all())

# Changed blocks between two snapshots.
disks = [api.VBD.get_VDI(vbd) for vbd in record["VBDs"]]
for disk in disks:
    api.VDI.enable_cbt(disk)
older = wait(api.Async.VM.snapshot(vm, "older"))
newer = wait(api.Async.VM.snapshot(vm, "newer"))
assert api.VM.get_is_a_snapshot(newer) and api.VM.get_snapshot_of(newer) == vm


def snapshot_disk(snapshot, device):
    vbds = [api.VBD.get_record(vbd) for vbd in api.VM.get_VBDs(snapshot)]
    return next(vbd["VDI"] for vbd in vbds if vbd["userdevice"] == device)


bitmap = base64.b64decode(api.VDI.list_changed_blocks(snapshot_disk(older, "0"), snapshot_disk(newer, "0")))
size = int(api.VDI.get_virtual_size(snapshot_disk(newer, "0")))
assert len(bitmap) == (size // 65536 + 7) // 8 and not any(bitmap)
expect("SR_BACKEND_FAILURE_460", api.VDI.list_changed_blocks, snapshot_disk(newer, "0"), snapshot_disk(newer, "1"))

# A raw export has the size of the disk, and its task tells the end.
task = api.task.create("export", "by a peer")
disk = snapshot_disk(newer, "0")
query = f"?session_id={session._session}&task_id={task}&vdi={disk}&format=raw"
with urllib.request.urlopen(f"{url}/export_raw_vdi{query}", context=insecure) as answer:
    assert answer.headers["Content-Length"] is None
    assert len(answer.read()) == size
wait(task)

# Snapshots go, with their disks.
for snapshot in (older, newer):
    gone = [snapshot_disk(snapshot, "0"), snapshot_disk(snapshot, "1")]
    api.VM.destroy(snapshot)
    for disk in gone:
        api.VDI.destroy(disk)
        expect("HANDLE_INVALID", api.VDI.get_record, disk)
session.logout()
