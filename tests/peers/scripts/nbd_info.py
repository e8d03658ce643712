"""Snapshots a VM and prints an NBD URI of its first disk, as libnbd's programs take it, and the snapshot disk's UUID.

The host's certificate is put, as the only authority, into the folder that is the first argument.
"""

import os
import pathlib
import sys
import urllib.parse

import XenAPI

folder = pathlib.Path(sys.argv[1])
session = XenAPI.Session(os.environ["POOL_URL"], ignore_ssl=True)
session.login_with_password(os.environ["POOL_USER"], os.environ["POOL_PASSWORD"], "1.0", "peer")
api = session.xenapi

snapshot = api.VM.snapshot(api.VM.get_by_uuid(os.environ["VM_UUID"]), "for nbd")
vbds = [api.VBD.get_record(vbd) for vbd in api.VM.get_VBDs(snapshot)]
disk = next(vbd["VDI"] for vbd in vbds if vbd["userdevice"] == "0")
info = api.VDI.get_nbd_info(disk)[0]
(folder / "ca-cert.pem").write_text(info["cert"])

name = urllib.parse.quote(info["exportname"], safe="")
parameters = urllib.parse.urlencode({"tls-certificates": folder})
print(f"nbds://{info['address']}:{info['port']}/{name}?{parameters}")
print(api.VDI.get_uuid(disk))
