#!/bin/bash
# In the guest: write 100 MB that cannot be compressed, read it, delete it. A nonce is served from memory.
set -euo pipefail
mkdir -p /run/app
echo "$NONCE" >/run/app/nonce
systemd-run --quiet --unit=app busybox httpd -f -p 8000 -h /run/app
busybox wget -q -O /var/churn "http://$HOST:$PORT/churn.data"
sync
cat /var/churn >/dev/null
rm /var/churn
sync
