# shellcheck shell=bash
# OVN and Open vSwitch, with the datapath in user space: no kernel module is needed. Sourced,
# not run.

OVS_OPTIONS="-vconsole:warn -vsyslog:off -vfile:off"

# ovsdb_file FILE SCHEMA: make it where it is not there.
ovsdb_file() { inside test -f "$1" || inside ovsdb-tool create "$1" "$2"; }

start_ovsdb() {
  ovsdb_file /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
  # shellcheck disable=SC2086
  run_service "ovsdb$SUFFIX" ovsdb-server $OVS_OPTIONS --remote=punix:/run/openvswitch/db.sock \
    --remote=ptcp:6640:127.0.0.1 /etc/openvswitch/conf.db
}

ready_ovsdb() {
  local southbound=unix:/run/ovn/ovnsb_db.sock options=enable-chassis-as-gw
  [ "$K" = 1 ] || southbound=tcp:$CONTROLLER:6642 options='""'
  wait_for "ovsdb$SUFFIX" 20 inside test -S /run/openvswitch/db.sock
  inside ovs-vsctl --no-wait init
  inside ovs-vsctl --no-wait set open . external-ids:system-id="$HOST" external-ids:hostname="$HOST" \
    external-ids:ovn-remote="$southbound" external-ids:ovn-encap-type=geneve \
    external-ids:ovn-encap-ip="$TUNNEL_IP" external-ids:ovn-bridge=br-int \
    external-ids:ovn-bridge-datapath-type=netdev external-ids:ovn-cms-options="$options"
}

start_ovn_nb() {
  ovsdb_file /var/lib/ovn/nb.db /usr/share/ovn/ovn-nb.ovsschema
  # shellcheck disable=SC2086
  run_service ovn-nb ovsdb-server $OVS_OPTIONS --remote=punix:/run/ovn/ovnnb_db.sock \
    --unixctl=/run/ovn/nb.ctl /var/lib/ovn/nb.db
}
ready_ovn_nb() {
  wait_for ovn-nb 20 inside test -S /run/ovn/ovnnb_db.sock
  inside ovn-nbctl --db=unix:/run/ovn/ovnnb_db.sock init
}

start_ovn_sb() {
  ovsdb_file /var/lib/ovn/sb.db /usr/share/ovn/ovn-sb.ovsschema
  # shellcheck disable=SC2086
  run_service ovn-sb ovsdb-server $OVS_OPTIONS --remote=punix:/run/ovn/ovnsb_db.sock \
    --remote="ptcp:6642:$IP" --unixctl=/run/ovn/sb.ctl /var/lib/ovn/sb.db
}
ready_ovn_sb() {
  wait_for ovn-sb 20 inside test -S /run/ovn/ovnsb_db.sock
  inside ovn-sbctl --db=unix:/run/ovn/ovnsb_db.sock init
}

start_vswitchd() {
  # shellcheck disable=SC2086
  run_service "vswitchd$SUFFIX" ovs-vswitchd $OVS_OPTIONS --pidfile unix:/run/openvswitch/db.sock
}

# The devices that it makes lose their addresses when it ends.
ready_vswitchd() {
  wait_for "vswitchd$SUFFIX" 30 inside ovs-appctl -t ovs-vswitchd version
  # Tunnels in user space need their cable on a bridge that has the address.
  inside ovs-vsctl --timeout=20 --may-exist add-br br-phy -- set bridge br-phy datapath_type=netdev \
    -- --may-exist add-port br-phy eth1
  wait_for "vswitchd$SUFFIX" 20 inside ip addr replace "$TUNNEL_IP/24" dev br-phy
  inside ip link set eth1 up
  inside ip link set br-phy up
  [ "$K" != 1 ] || tenant_port
}

# In user space Open vSwitch sets all flags of a device as it remembers them when it makes it promiscuous. A guest's tap
# that libvirt has set up meanwhile, once in some hundred starts, is then down for good, and nobody hears the guest.
start_taps() {
  # shellcheck disable=SC2016
  run_service "taps$SUFFIX" sh -c '
    while sleep 1; do
      for file in /sys/class/net/tap*/flags; do
        read -r flags <"$file" || continue
        [ $((flags & 1)) = 0 ] || continue
        tap=${file%/flags}
        ! ip link set "${tap##*/}" up || echo "$(date "+%F %T") ${tap##*/} was down"
      done 2>/dev/null
    done'
}
ready_taps() { wait_for "taps$SUFFIX" 10 alive "taps$SUFFIX"; }

start_northd() {
  # shellcheck disable=SC2086
  run_service northd ovn-northd $OVS_OPTIONS --pidfile --ovnnb-db=unix:/run/ovn/ovnnb_db.sock \
    --ovnsb-db=unix:/run/ovn/ovnsb_db.sock
}
ready_northd() { wait_for northd 20 inside ovn-appctl -t ovn-northd version; }

start_ovn_controller() {
  # shellcheck disable=SC2086
  run_service "ovn-controller$SUFFIX" ovn-controller $OVS_OPTIONS unix:/run/openvswitch/db.sock
}
ready_ovn_controller() { wait_for "ovn-controller$SUFFIX" 30 inside ovs-vsctl br-exists br-int; }

# tenant_port: the controller's own place in network "lab": a port of Neutron's, plugged as
# a server's would be. Its id, MAC and address are in state/tenant-port.
tenant_port() {
  local port mac address
  [ -s "$C/state/tenant-port" ] || return 0
  read -r port mac address <"$C/state/tenant-port"
  inside ovs-vsctl --timeout=20 --may-exist add-port br-int lab0 -- set interface lab0 type=internal \
    mac="\"$mac\"" mtu_request=1442 external-ids:iface-id="$port"
  wait_for vswitchd 20 inside ip addr replace "$address/24" dev lab0
  inside ip link set lab0 up
}
