# shellcheck shell=bash
# The configuration of the current cloud. Sourced, not run.

database() {
  printf '[%s]\nconnection = %s\nmax_pool_size = 5\nmax_overflow = 20\n' "$1" "$(database_url "$2")"
}

transport() { echo "transport_url = rabbit://guest:guest@$CONTROLLER:5672/"; }

# How a service logs in to Keystone.
account() {
  cat <<CONF
auth_type = password
auth_url = http://$CONTROLLER:5000/v3
username = service
password = $PASSWORD
user_domain_name = Default
project_name = service
project_domain_name = Default
region_name = $CLOUD
CONF
}

# Sections that every API has.
authtoken() {
  echo '[keystone_authtoken]'
  account
  cat <<CONF
www_authenticate_uri = http://$CONTROLLER:5000/v3
service_token_roles = service
service_token_roles_required = true
CONF
}

messaging() {
  cat <<CONF
[oslo_messaging_rabbit]
heartbeat_in_pthread = true
[oslo_messaging_notifications]
driver = ${1:-noop}
[oslo_concurrency]
lock_path = ${2:-$M/state/lock}
CONF
}

keystone_conf() {
  cat <<CONF
[DEFAULT]
log_file =
$(database database keystone)
[token]
provider = fernet
[fernet_tokens]
key_repository = $C/etc/fernet
[fernet_receipts]
key_repository = $C/etc/fernet
[credential]
key_repository = $C/etc/credential
[cache]
enabled = true
backend = dogpile.cache.memory
[identity]
# bcrypt's cheapest: every login costs processor time, and nothing here is secret
password_hash_rounds = 4
CONF
}

glance_conf() {
  cat <<CONF
[DEFAULT]
enabled_backends = file:file
worker_self_reference_url = http://$IP:9292
node_staging_uri = file://$C/state/glance-staging
show_image_direct_url = false
$(transport)
$(database database glance)
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = $C/state/images
[os_glance_staging_store]
filesystem_store_datadir = $C/state/glance-staging
[os_glance_tasks_store]
filesystem_store_datadir = $C/state/glance-tasks
[paste_deploy]
flavor = keystone
config_file = $VENV/etc/glance/glance-api-paste.ini
[image_cache]
cache_dir =
$(authtoken)
$(messaging)
CONF
}

placement_conf() {
  cat <<CONF
[api]
auth_strategy = keystone
$(database placement_database placement)
$(authtoken)
CONF
}

neutron_conf() {
  cat <<CONF
[DEFAULT]
core_plugin = ml2
service_plugins =
host = $HOST
state_path = $C/state/neutron
api_paste_config = $VENV/etc/neutron/api-paste.ini
$(transport)
auth_strategy = keystone
dhcp_agent_notification = false
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
$(database database neutron)
$(authtoken)
[nova]
$(account)
[placement]
$(account)
[ml2]
type_drivers = local,geneve
tenant_network_types = geneve
mechanism_drivers = ovn
extension_drivers = port_security
[ml2_type_geneve]
vni_ranges = 1:65536
max_header_size = 38
[ovn]
ovn_nb_connection = unix:/run/ovn/ovnnb_db.sock
ovn_sb_connection = unix:/run/ovn/ovnsb_db.sock
ovn_metadata_enabled = false
$(messaging)
CONF
}

# nova_section NAME: a service that Nova is a client of.
nova_section() { printf '[%s]\n%s\n' "$1" "$(account)"; }

# What nova-compute may do as root: start the daemons of oslo.privsep.
privsep_helper() { printf '%s/bin/privsep-helper --config-file %s/etc/nova-cpu%s.conf' "$VENV" "$C" "$SUFFIX"; }
privsep() { printf '[%s]\nhelper_command = sudo -n %s\n' "$1" "$(privsep_helper)"; }
sudoers() { printf '%s ALL = (root) NOPASSWD: %s *\n' "$NOVA_USER" "$(privsep_helper)"; }

# What nova-compute and the rest of Nova have in common, but for the folder for locks.
nova_conf() {
  nova_defaults
  authtoken
  printf '[service_user]\nsend_service_user_token = true\n%s\n' "$(account)"
  local name
  for name in placement neutron glance cinder; do nova_section $name; done
  for name in privsep nova_sys_admin privsep_osbrick vif_plug_linux_bridge_privileged vif_plug_ovs_privileged \
    cloudlet_privileged; do
    privsep $name
  done
  # Nova's notifications can be read in its services' logs.
  messaging log "$1"
  [ "$MINICLOUD_EXTENSION" = 0 ] || cat <<CONF
[filter_scheduler]
weight_classes = nova.scheduler.weights.all_weighers,cloudlet_ext.nova.scheduler.BaseWeigher
# Tests make builds fail: no host is the worse for it.
build_failure_weight_multiplier = 0
[cloudlet]
state_path = $M/state/cloudlet
# Tests serve overlays from this host's side of the bridge, without TLS.
overlay_sources = glance:,https:,http:
allowed_networks = $PREFIX.0/24
# A test waits for this to pass.
record_timeout = $((20 * MINICLOUD_PATIENCE))
CONF
}

nova_defaults() {
  local driver=cloudlet.CloudletDriver
  [ "$MINICLOUD_EXTENSION" != 0 ] || driver=libvirt.LibvirtDriver
  cat <<CONF
[DEFAULT]
host = $HOST
my_ip = $IP
$(transport)
compute_driver = $driver
state_path = $M/state/nova
instances_path = $M/state/nova/instances
instance_usage_audit = false
force_config_drive = false
vif_plugging_is_fatal = true
vif_plugging_timeout = $((60 * MINICLOUD_PATIENCE))
reserved_host_memory_mb = 0
# What hosts hold, the scheduler learns soon.
update_resources_interval = 10
# The machines have no ssh between them to move disks with.
allow_resize_to_same_host = true
# Many small guests on few cores, most of them idle.
initial_cpu_allocation_ratio = 32
# nova-compute would wait, for minutes, for a thread of its own that never ends.
manager_shutdown_timeout = 3
# A message that went with RabbitMQ is missed sooner than after a minute.
rpc_response_timeout = $((30 * MINICLOUD_PATIENCE))
# Periodic tasks (mapping new hosts among them) otherwise first run within a minute.
periodic_fuzzy_delay = 0
[api]
auth_strategy = keystone
[wsgi]
api_paste_config = $C/etc/api-paste.ini
[conductor]
workers = 1
[scheduler]
workers = 1
# New compute hosts are mapped to the cell without an operator.
discover_hosts_in_cells_interval = 3
[quota]
instances = 100
cores = 200
ram = -1
[libvirt]
virt_type = qemu
cpu_mode = none
hw_machine_type = x86_64=pc
images_type = qcow2
wait_soft_reboot_seconds = 5
[vnc]
enabled = false
[spice]
enabled = false
[serial_console]
enabled = false
CONF
}

# Nova's own pipelines; ours is the filter between the authenticated context and the application.
paste_ini() {
  if [ "$MINICLOUD_EXTENSION" = 0 ]; then
    cat "$VENV/etc/nova/api-paste.ini"
    return
  fi
  sed 's/keystonecontext osapi_compute_app_v21/keystonecontext cloudlet osapi_compute_app_v21/
       s/keystonecontext legacy_v2_compatible osapi/keystonecontext cloudlet legacy_v2_compatible osapi/' \
    "$VENV/etc/nova/api-paste.ini"
  printf '\n[filter:cloudlet]\npaste.filter_factory = cloudlet_ext.nova.filter:filter_factory\n'
}

# All configuration of the current machine; the controller's is that of the whole cloud.
write_configuration() {
  mkdir -p "$M/state/lock"
  install -d -o $NOVA_USER -g $NOVA_USER "$M/state/nova/"{,instances,lock}
  install -d -o $NOVA_USER -g $NOVA_USER -m 700 "$M/state/cloudlet"
  # nova-compute must not be told of the databases: it refuses to use them.
  install -g $NOVA_USER -m 640 <(nova_conf "$M/state/nova/lock") "$C/etc/nova-cpu$SUFFIX.conf"
  install -m 440 <(sudoers) "$M/fs/etc-sudoers/nova"
  [ "$K" = 1 ] || return 0
  mkdir -p "$C"/state/{images,glance-staging,glance-tasks,neutron}
  {
    nova_conf "$M/state/lock"
    database api_database nova_api
    database database nova
  } >"$C/etc/nova.conf"
  printf '[database]\nconnection = %s\n' "$(database_url nova_cell0)" >"$C/etc/cell0.conf"
  paste_ini >"$C/etc/api-paste.ini"
  keystone_conf >"$C/etc/keystone.conf"
  glance_conf >"$C/etc/glance-api.conf"
  placement_conf >"$C/etc/placement.conf"
  neutron_conf >"$C/etc/neutron.conf"
}
