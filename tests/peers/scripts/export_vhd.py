"""Snapshots a VM, exports its first disk as a VHD to the file that is the first argument, prints the snapshot disk's UUID."""

import os
import shutil
import ssl
import sys
import time
import urllib.request

import XenAPI

url = os.environ["POOL_URL"]
session = XenAPI.Session(url, ignore_ssl=True)
session.login_with_password(os.environ["POOL_USER"], os.environ["POOL_PASSWORD"], "1.0", "peer")
api = session.xenapi

snapshot = api.VM.snapshot(api.VM.get_by_uuid(os.environ["VM_UUID"]), "for export")
vbds = [api.VBD.get_record(vbd) for vbd in api.VM.get_VBDs(snapshot)]
disk = next(vbd["VDI"] for vbd in vbds if vbd["userdevice"] == "0")
task = api.task.create("export", "")
query = f"?session_id={session._session}&task_id={task}&vdi={disk}&format=vhd"
with urllib.request.urlopen(f"{url}/export_raw_vdi{query}", context=ssl._create_unverified_context()) as answer:
    with open(sys.argv[1], "wb") as file:
        shutil.copyfileobj(answer, file)
while api.task.get_status(task) == "pending":
    time.sleep(0.05)
assert api.task.get_status(task) == "success", api.task.get_error_info(task)
print(api.VDI.get_uuid(disk))
