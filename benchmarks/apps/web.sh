#!/bin/bash
# In the guest: nginx with 12 MiB of data, redis with 20,000 keys. The nonce is in memory only: nginx reads it from a file
# system in memory, where every boot draws another one; redis gets it after its last save.
set -euo pipefail
from() { busybox wget -q -O- "http://$HOST:$PORT/$1"; }

from app-web-files.tar | tar -x -C /
cat >/etc/nginx/sites-available/default <<'END'
server {
  listen 80 default_server;
  root /var/www/html;
  access_log off;
  location = /nonce { alias /run/app-nonce; }
}
END
cat >/etc/systemd/system/app-nonce.service <<'END'
[Unit]
Before=nginx.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'head -c 16 /dev/urandom | od -An -v -tx1 | tr -d " \n" >/run/app-nonce'
END
ln -sf /etc/systemd/system/app-nonce.service /etc/systemd/system/multi-user.target.wants/
from web.data >/var/www/html/data
systemctl daemon-reload
systemctl start app-nonce nginx redis-server
busybox awk 'BEGIN {
  for (i = 0; i < 20000; i++) printf "SET key:%d value:%d:%08x:%08x\r\n", i, i, i * 2654435761 % 4294967296, i * 40503 % 65536
}' | redis-cli --pipe >/dev/null
redis-cli save >/dev/null
redis-cli set nonce "$NONCE" >/dev/null
busybox wget -q -O /dev/null http://127.0.0.1/data
sync
