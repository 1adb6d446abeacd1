# shellcheck shell=bash
# Machines. Each is a network, a mount and a host-name namespace with a private /run and a
# private libvirt and Open vSwitch, so that every service is stock and on its standard port
# and socket. Sourced, not run.

# What a private copy in the machine's folder stands for, as FOLDER:PLACE.
PRIVATE="etc-libvirt:/etc/libvirt lib-libvirt:/var/lib/libvirt log-libvirt:/var/log/libvirt
cache-libvirt:/var/cache/libvirt lib-ovs:/var/lib/openvswitch etc-ovs:/etc/openvswitch
log-ovs:/var/log/openvswitch lib-ovn:/var/lib/ovn log-ovn:/var/log/ovn etc-sudoers:/etc/sudoers.d"

# inside COMMAND...: run it in the machine. The working directory is kept.
inside() {
  local pid
  recorded "host$SUFFIX" || die "$HOST is not up"
  nsenter --target "$pid" --net --mount --uts env --chdir="$PWD" TMPDIR="$M/tmp" \
    PATH="$VENV/bin:$PATH" "$@" 9>&-
}

# run_service NAME COMMAND...: launch it in the machine.
run_service() {
  local name=$1 pid
  shift
  recorded "host$SUFFIX" || die "$HOST is not up"
  launch "$name" nsenter --target "$pid" --net --mount --uts env TMPDIR="$M/tmp" \
    PATH="$VENV/bin:$PATH" "$@"
}

# Every process in the machine, whoever started it: they alone see its /run.
processes_in_machine() {
  grep -lsF -- " minicloud:$M " /proc/[0-9]*/mountinfo | cut -d/ -f3 || true
}

bridges() {
  local name
  for name in $BRIDGE $TUNNELS; do
    ip link show "$name" >/dev/null 2>&1 || ip link add "$name" type bridge
    ip link set "$name" up
  done
  ip addr replace "$PREFIX.1/24" dev "$BRIDGE"
}

# plug BRIDGE NAME DEVICE PID: a cable from a bridge to a new device of the machine.
plug() {
  ! ip link show "$2" >/dev/null 2>&1 || ip link del "$2"
  ip link add "$2" type veth peer name "$3" netns "$4"
  ip link set "$2" master "$1" up
}

# The places that the machine has of its own.
machine_files() {
  local pair
  mkdir -p "$C"/{logs,pids,etc,state} "$M"/{tmp,state}
  for pair in $PRIVATE; do mkdir -p "$M/fs/${pair%%:*}" "${pair#*:}"; done
  chmod 1777 "$M/tmp"
  # A cloud that was made when nova-compute was root.
  [ ! -d "$M/state/nova" ] || chown -R --from=root $NOVA_USER: "$M/state/nova" "$M/state/cloudlet"
  cp -a /etc/libvirt/. "$M/fs/etc-libvirt/"
  printf '127.0.0.1 localhost\n%s %s\n' "$IP" "$HOST" >"$M/fs/hosts"
}

machine_mounts() {
  local pair
  printf '%s\n' \
    "mount -t sysfs sysfs /sys  # shows the devices of this network namespace" \
    "mount -t tmpfs -o mode=755 'minicloud:$M' /run" \
    "mkdir -p /run/lock /run/openvswitch /run/ovn /run/minicloud" \
    "mount --bind '$M/fs/hosts' /etc/hosts"
  # What udev does on a host where guests start early: QEMU's user may catch page faults.
  [ ! -c /dev/userfaultfd ] || printf '%s\n' \
    "mknod -m 660 /run/minicloud/userfaultfd c 0x$(stat -c %t /dev/userfaultfd) 0x$(stat -c %T /dev/userfaultfd)" \
    "chgrp $(id -gn "$MINICLOUD_QEMU_USER") /run/minicloud/userfaultfd" \
    "mount --bind /run/minicloud/userfaultfd /dev/userfaultfd"
  for pair in $PRIVATE; do printf "mount --bind '%s' %s\n" "$M/fs/${pair%%:*}" "${pair#*:}"; done
}

machine_up() {
  local pid
  ! inside_is_ready || return 0
  machine_end
  bridges
  machine_files
  launch "host$SUFFIX" unshare --net --mount --uts --propagation slave \
    sh -c "hostname '$HOST' && exec sleep infinity"
  recorded "host$SUFFIX" || why_not "host$SUFFIX" "no namespaces for $HOST"
  wait_for "host$SUFFIX" 10 is_host_name "$HOST"
  plug "$BRIDGE" "mc$N-$K" eth0 "$pid"
  plug "$TUNNELS" "mct$N-$K" eth1 "$pid"
  {
    echo "set -eu"
    machine_mounts
    printf '%s\n' "ip link set lo up" "ip addr add $IP/24 dev eth0" "ip link set eth0 up" \
      "ip route add default via $PREFIX.1" "touch /run/minicloud/ready"
    # What comes out of a tunnel's cable is for Open vSwitch, never for the kernel.
    printf 'echo 1 >/proc/sys/net/ipv4/conf/%s\n' all/rp_filter eth1/rp_filter all/arp_ignore
  } >"$M/start"
  inside sh "$M/start" >>"$C/logs/host$SUFFIX.log" 2>&1 || why_not "host$SUFFIX" "$HOST could not be set up"
  step "$CLOUD: machine $HOST at $IP"
}

is_host_name() { [ "$(nsenter --target "$(cut -d' ' -f1 "$C/pids/host$SUFFIX")" --uts uname -n)" = "$1" ]; }
inside_is_ready() { alive "host$SUFFIX" && inside test -e /run/minicloud/ready; }

# machine_end: end what still runs in the machine; then its namespaces are gone.
machine_end() {
  local pids device
  stop "host$SUFFIX"
  # shellcheck disable=SC2207
  pids=($(processes_in_machine))
  [ ${#pids[@]} = 0 ] || end 5 "${pids[@]}"
  for device in "mc$N-$K" "mct$N-$K"; do
    ! ip link show "$device" >/dev/null 2>&1 || ip link del "$device" 2>/dev/null || true
  done
}

# Without a machine on them, the bridges go.
bridges_end() {
  local name
  for name in $BRIDGE $TUNNELS; do
    [ -d "/sys/class/net/$name/brif" ] || continue
    [ -n "$(ls "/sys/class/net/$name/brif")" ] || ip link del "$name"
  done
}
