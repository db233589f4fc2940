"""python -m tests.helpers.fake_vendor --folder F --port 0 --settings '{"dimensions": 16}'

Prints `port N` once it listens, and serves until it is killed. The bill is F/bill.jsonl.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tests.helpers.fake_vendor.server import Server
from tests.helpers.fake_vendor.settings import Settings
from tests.helpers.fake_vendor.vendor import Vendor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--folder", type=Path, required=True, help="where the bill is written")
parser.add_argument("--port", type=int, default=0, help="0 = any that is free")
parser.add_argument("--settings", default="{}", help="JSON; see settings.py")
parser.add_argument("--key-env", help="environment variable with the key that requests must carry")
arguments = parser.parse_args()
vendor = Vendor(arguments.folder, Settings.model_validate_json(arguments.settings))
key = os.environ[arguments.key_env] if arguments.key_env else None
server = Server(arguments.port, vendor, key)
print(f"port {server.server_address[1]}", flush=True)
server.serve_forever()
