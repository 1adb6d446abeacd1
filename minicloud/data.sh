# shellcheck shell=bash
# MariaDB with the schemas of all services, and RabbitMQ: both on the controller. Sourced,
# not run.

SCHEMAS="keystone glance placement nova_api nova_cell0 nova neutron"
DATABASE_SOCKET=/run/minicloud/mysql.sock # the machine's own /run

database_url() { printf 'mysql+pymysql://root@localhost/%s?unix_socket=%s\n' "$1" $DATABASE_SOCKET; }
sql() { SUFFIX="" inside mariadb --no-defaults -S $DATABASE_SOCKET -u root "$@"; }

# The schemas are the same in every cloud of one set of releases: their data files are kept.
schema_cache() {
  printf '%s/schemas-%s\n' "$CACHE" "$(digest_of "$PARTS/requirements.lock" "$PARTS/data.sh" | cut -c1-12)"
}

# The data folder: from the cache, or new and empty.
database_files() {
  local cached new=$C/state/db.new
  [ ! -d "$C/state/db" ] || return 0
  cached=$(schema_cache)
  rm -rf "$new" "$C"/state/.{schemas,identity,catalog,content}
  if [ -d "$cached" ]; then
    cp -a "$cached" "$new"
    touch "$C/state/.schemas"
  else
    mkdir -p "$new"
    mariadb-install-db --no-defaults --user=root --datadir="$new" --auth-root-authentication-method=normal \
      --skip-test-db >"$C/logs/db-install.log" 2>&1 || { tail -n 15 "$C/logs/db-install.log" >&2; die "no database"; }
  fi
  mv "$new" "$C/state/db"
}

start_db() {
  database_files
  # No flushing of logs: the data need not outlive a power cut.
  run_service db mariadbd --no-defaults --user=root --datadir="$C/state/db" --socket=$DATABASE_SOCKET \
    --pid-file=/run/minicloud/mysql.pid --skip-networking --skip-grant-tables --skip-log-bin \
    --performance-schema=OFF --default-time-zone=+00:00 --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 \
    --innodb-buffer-pool-size=96M --innodb-log-file-size=48M --max-connections=300 --tmpdir="$M/tmp" \
    --character-set-server=utf8mb3 --collation-server=utf8mb3_general_ci
}
ready_db() { wait_for db 60 sql -e 'select 1'; }

# The name server of Erlang, here in the foreground, so that it is a process that we know.
start_epmd() { run_service epmd epmd -address 127.0.0.1; }

start_rabbitmq() {
  mkdir -p "$C"/state/rabbit/{home,mnesia}
  cat >"$C/etc/rabbitmq.conf" <<CONF
listeners.tcp.1 = 0.0.0.0:5672
loopback_users = none
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
CONF
  : >"$C/etc/rabbitmq-env.conf"
  echo '[].' >"$C/etc/enabled_plugins"
  # The server itself, not Debian's wrapper, which would change the user.
  run_service rabbitmq env HOME="$C/state/rabbit/home" RABBITMQ_NODENAME=rabbit@localhost \
    RABBITMQ_CONF_ENV_FILE="$C/etc/rabbitmq-env.conf" RABBITMQ_CONFIG_FILE="$C/etc/rabbitmq.conf" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$C/etc/enabled_plugins" \
    RABBITMQ_MNESIA_BASE="$C/state/rabbit/mnesia" RABBITMQ_LOG_BASE="$C/logs" \
    RABBITMQ_PID_FILE=/run/minicloud/rabbit.pid \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +A 8 +sbwt none +sbwtdcpu none +sbwtdio none" \
    RABBITMQ_DIST_PORT=25672 /usr/lib/rabbitmq/bin/rabbitmq-server
}
ready_rabbitmq() { wait_for rabbitmq 120 inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/5672'; }

# logged_step NAME COMMAND...: its output to logs/NAME.log, whose end is shown when it fails.
logged_step() {
  local name=$1
  shift
  "$@" >>"$C/logs/$name.log" 2>&1 || why_not "$name" "$* failed"
}

make_schemas() {
  local other s
  for s in $SCHEMAS; do sql -e "create database if not exists $s"; done
  # Two lines of work at once, one for each core.
  (
    logged_step schemas-1 inside keystone-manage --config-file "$C/etc/keystone.conf" db_sync
    logged_step schemas-1 inside glance-manage --config-file "$C/etc/glance-api.conf" db_sync
    logged_step schemas-1 inside placement-manage --config-file "$C/etc/placement.conf" db sync
    logged_step schemas-1 inside neutron-db-manage --config-file "$C/etc/neutron.conf" upgrade heads
  ) &
  other=$!
  logged_step schemas-2 inside nova-manage --config-file "$C/etc/nova.conf" api_db sync
  logged_step schemas-2 inside nova-manage --config-file "$C/etc/nova.conf" db sync --local_cell
  logged_step schemas-2 inside nova-manage --config-file "$C/etc/nova.conf" --config-file "$C/etc/cell0.conf" \
    db sync --local_cell
  make_cells
  wait $other || die "$CLOUD: no schemas"
  stop db
  keep_schemas
  start_db
  ready_db
  touch "$C/state/.schemas"
  step "$CLOUD: schemas made"
}

keep_schemas() {
  local cached
  cached=$(schema_cache)
  rm -rf "$CACHE"/schemas-*
  cp -a "$C/state/db" "$cached.new"
  mv "$cached.new" "$cached"
}

# Nova's cells: nothing in them is of one cloud only, since the address of RabbitMQ is taken
# from what each service is configured with.
make_cells() {
  local nova=(inside nova-manage --config-file "$C/etc/nova.conf" cell_v2)
  logged_step cells "${nova[@]}" map_cell0 --database_connection "$(database_url nova_cell0)"
  "${nova[@]}" list_cells 2>>"$C/logs/cells.log" | grep -F ' cell1 ' >/dev/null ||
    logged_step cells "${nova[@]}" create_cell --name cell1 --database_connection "$(database_url nova)" \
      --transport-url '{scheme}://{username}:{password}@{hostname}:{port}/'
}

# Keystone's keys and its first user.
make_identity() {
  local folder key url=http://$IP:5000/v3
  # What "keystone-manage fernet_setup" and "credential_setup" write is just such files.
  for folder in fernet credential; do
    [ ! -d "$C/etc/$folder" ] || continue
    mkdir -m 700 "$C/etc/$folder.new"
    for key in 0 1; do head -c32 /dev/urandom | base64 | tr '+/' '-_' >"$C/etc/$folder.new/$key"; done
    mv "$C/etc/$folder.new" "$C/etc/$folder"
  done
  logged_step identity inside keystone-manage --config-file "$C/etc/keystone.conf" bootstrap \
    --bootstrap-password "$PASSWORD" --bootstrap-region-id "$CLOUD" --bootstrap-public-url "$url" \
    --bootstrap-internal-url "$url" --bootstrap-admin-url "$url"
}

databases_up() {
  [ -e "$C/state/.schemas" ] || make_schemas
  [ ! -e "$C/state/.identity" ] || return 0
  make_identity
  touch "$C/state/.identity"
  step "$CLOUD: database filled"
}
