# shellcheck shell=bash disable=SC2034,SC2153
# The services: start_NAME begins one, ready_NAME waits until it can be used. Those of
# machine K have names that end in K, from the second on. Sourced, not run.

CONTROLLER_SERVICES="db epmd rabbitmq libvirtd ovsdb ovn-nb ovn-sb vswitchd taps northd ovn-controller
keystone glance placement conductor scheduler nova-api neutron compute"
HOST_SERVICES="libvirtd ovsdb vswitchd taps ovn-controller compute"
WITH_EXTENSION="nova-api conductor scheduler compute" # what loads our package

# services_of_cloud: the names of all services, in the order in which they start.
services_of_cloud() {
  local k name
  # shellcheck disable=SC2086
  printf '%s\n' $CONTROLLER_SERVICES
  for k in $(machines_of_cloud); do
    [ "$k" = 1 ] || for name in $HOST_SERVICES; do printf '%s%s\n' "$name" "$k"; done
  done
}

# of_machine NAME: set "service" and make its machine the current one.
of_machine() {
  service=${1%%[0-9]*}
  local k=${1#"$service"}
  use_cloud "$CLOUD" "${k:-1}"
}

# begin NAME...: start those that do not run, and do not wait.
begin() {
  local name service
  for name in "$@"; do
    alive "$name" || {
      of_machine "$name"
      "start_${service//-/_}"
    }
  done
  use_cloud "$CLOUD"
}

# ready NAME...: wait for each of them.
ready() {
  local name service
  for name in "$@"; do
    of_machine "$name"
    "ready_${service//-/_}"
  done
  use_cloud "$CLOUD"
}

# ------------------------------------------------------------------------ libvirt
libvirt_configuration() {
  local capabilities=$CACHE/libvirt-qemu
  cat >"$M/fs/etc-libvirt/libvirtd.conf" <<'CONF'
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
CONF
  # No control groups: two libvirts on one kernel would fight for the same names.
  cat >"$M/fs/etc-libvirt/qemu.conf" <<CONF
user = "$MINICLOUD_QEMU_USER"
group = "$(id -gn "$MINICLOUD_QEMU_USER")"
dynamic_ownership = 1
security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
namespaces = []
save_image_format = "raw"
CONF
  # What libvirt has found out about this QEMU takes it seconds to find out again.
  [ ! -d "$capabilities" ] || [ -d "$M/fs/cache-libvirt/qemu" ] ||
    cp -a "$capabilities" "$M/fs/cache-libvirt/qemu"
}

start_libvirtd() {
  libvirt_configuration
  run_service "libvirtd$SUFFIX" libvirtd --pid-file /run/minicloud/libvirtd.pid
}

ready_libvirtd() {
  local capabilities=$CACHE/libvirt-qemu
  wait_for "libvirtd$SUFFIX" 60 inside virsh -q -c qemu:///system capabilities
  [ -d "$capabilities" ] || [ ! -d "$M/fs/cache-libvirt/qemu" ] || {
    rm -rf "$capabilities.new"
    cp -a "$M/fs/cache-libvirt/qemu" "$capabilities.new"
    mv "$capabilities.new" "$capabilities"
  }
}

# --------------------------------------------------------------------------- APIs
# api NAME MODULE PORT VARIABLE=VALUE...: one process with threads. Keystone parses the
# process's own command line, so gunicorn's options are in a file.
api() {
  local name=$1 module=$2 port=$3
  shift 3
  cat >"$C/etc/gunicorn-$name.py" <<CONF
wsgi_app = "$module:application"
bind = "0.0.0.0:$port"
proc_name = "$name"
workers = 1
worker_class = "gthread"
threads = 8
# Longer than clients keep an idle connection: none is closed just when it is used again.
keepalive = 75
timeout = 600
graceful_timeout = 3
control_socket_disable = True
CONF
  run_service "$name" env GUNICORN_CMD_ARGS="--config $C/etc/gunicorn-$name.py" "$@" gunicorn
}

# answers URL: whether a server is there that does not fail.
answers() { [[ $(inside curl -s -o /dev/null -m 20 -w '%{http_code}' "$1") == [1234]?? ]]; }

start_keystone() {
  api keystone keystone.wsgi.api 5000 OS_KEYSTONE_CONFIG_FILES="$C/etc/keystone.conf" OS_KEYSTONE_CONFIG_DIR="$C/etc"
}
ready_keystone() { wait_for keystone 90 answers "http://$IP:5000/v3"; }
start_glance() { api glance glance.wsgi.api 9292 OS_GLANCE_CONFIG_DIR="$C/etc"; }
ready_glance() { wait_for glance 90 answers "http://$IP:9292/"; }
start_placement() { api placement placement.wsgi.api 8778 OS_PLACEMENT_CONFIG_DIR="$C/etc"; }
ready_placement() { wait_for placement 90 answers "http://$IP:8778/"; }
start_nova_api() { api nova-api nova.wsgi.osapi_compute 8774 OS_NOVA_CONFIG_DIR="$C/etc"; }
ready_nova_api() { wait_for nova-api 90 answers "http://$IP:8774/"; }
# Neutron counts the workers of uWSGI and mod_wsgi only.
start_neutron() {
  api neutron neutron.wsgi.api 9696 OS_NEUTRON_CONFIG_DIR="$C/etc" OS_NEUTRON_CONFIG_FILES=neutron.conf ASGI_WORKERS=1
}
ready_neutron() { wait_for neutron 120 answers "http://$IP:9696/"; }

# --------------------------------------------------------------------------- Nova
start_conductor() { run_service conductor nova-conductor --config-file "$C/etc/nova.conf"; }
start_scheduler() { run_service scheduler nova-scheduler --config-file "$C/etc/nova.conf"; }
ready_conductor() { wait_for conductor 60 nova_service_is_up nova-conductor; }
ready_scheduler() { wait_for scheduler 60 nova_service_is_up nova-scheduler; }
start_compute() {
  inside install -d -o $NOVA_USER -g $NOVA_USER -m 711 /run/cloudlet
  run_service "compute$SUFFIX" setpriv --reuid=$NOVA_USER --regid=$NOVA_USER --init-groups \
    env HOME="$M/state/nova" nova-compute --config-file "$C/etc/nova-cpu$SUFFIX.conf"
}
# Its host must also be known to the scheduler: that takes one more round of discovery.
ready_compute() {
  wait_for "compute$SUFFIX" 120 nova_service_is_up nova-compute
  wait_for "compute$SUFFIX" 60 host_is_mapped
}

# nova_service_is_up BINARY: whether it has reported since it was started last. Times are whole seconds: a report in that
# of its start may be the last one of the process before.
nova_service_is_up() {
  local began suffix=""
  [ "$1" != nova-compute ] || suffix=$SUFFIX
  began=$(stat -c %Y "$C/pids/${1#nova-}$suffix")
  [ -n "$(sql -N -e "select 1 from nova.services where host = '$HOST' and \`binary\` = '$1' and deleted = 0
    and coalesce(last_seen_up, updated_at, created_at) > from_unixtime($began)")" ]
}
host_is_mapped() { [ -n "$(sql -N -e "select 1 from nova_api.host_mappings where host = '$HOST'")" ]; }
