#!/bin/bash
# In the guest: the Python service, in one of its modes ($MODE), with its data ($DATA) from the host.
set -euo pipefail
from() { busybox wget -q -O- "http://$HOST:$PORT/$1"; }

from "$PACKAGES" | tar -x -C / --exclude="*/numpy/*tests"
mkdir -p /opt/app
from service.py >/opt/app/service.py
[ "$MODE" != database ] || from "$DATA" >/opt/app/data
systemctl daemon-reload
systemd-run --quiet --unit=app python3 /opt/app/service.py "$MODE" "http://$HOST:$PORT/$DATA" "$NONCE"
for _ in $(seq 600); do
  if busybox wget -q -O /dev/null http://127.0.0.1:8000/; then break; fi
  sleep 0.1
done
sync
# What the database reads before its first reply shall come from the disk.
[ "$MODE" != database ] || echo 3 >/proc/sys/vm/drop_caches
