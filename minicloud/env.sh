# shellcheck shell=bash disable=SC2034
# Settings and places of the minicloud. Sourced, not run.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PARTS=$ROOT/minicloud                                 # the files beside this one
WORK=${CLOUDLET_WORK:-/var/tmp/cloudlet}/minicloud    # everything that is made goes here
GUESTS=${CLOUDLET_WORK:-/var/tmp/cloudlet}/guests     # what tools/guest makes
VENV=$WORK/venv
CACHE=$WORK/cache                                     # what can be made again; outlives "clean"
CLOUDS=$WORK/clouds                                   # one folder for each cloud
LOG=$WORK/install.log

: "${MINICLOUD_EXTENSION:=1}"            # 0: a stock cloud, without this project's extension
: "${MINICLOUD_PYTHON:=/usr/bin/python3}" # Python 3.11 or newer, for every user
: "${MINICLOUD_QEMU_USER:=libvirt-qemu}" # the user of the guests' QEMU processes
: "${MINICLOUD_PATIENCE:=1}"             # waits are so many times as long as usual

NOVA_USER=nova                           # the user of nova-compute, as packages have it
NAMES="one two three four"               # the clouds, by number
BRIDGE=minicloud                         # joins the machines of all clouds, and this host
TUNNELS=minicloud-tun                    # carries the tunnels between the compute hosts of a cloud
PREFIX=10.77.0                           # machine K of cloud N is $PREFIX.(10*K+N), this host $PREFIX.1
TUNNEL_PREFIX=10.77.1
TENANT_PREFIX=192.168.111                # network "lab" in every cloud; $TENANT_PREFIX.2 is the machine itself
PASSWORD=minicloud                       # of every account

# Or every service would compile all that it imports at each of its starts.
unset PYTHONDONTWRITEBYTECODE

export ROOT WORK GUESTS VENV CACHE CLOUDS PREFIX TENANT_PREFIX PASSWORD

# step TEXT: a line of progress, with the seconds since the start.
step() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

# number_of CLOUD: 1, 2, ...
number_of() {
  local name number=0
  for name in $NAMES; do
    number=$((number + 1))
    [ "$name" != "$1" ] || { printf '%s\n' "$number"; return 0; }
  done
  die "no cloud can have the name '$1'; names are: $NAMES"
}

# use_cloud NAME [K]: the following is about this cloud, and its machine K (1: the
# controller, which is also the first compute host).
use_cloud() {
  CLOUD=$1 K=${2:-1}
  N=$(number_of "$1")
  C=$CLOUDS/$CLOUD
  CONTROLLER=$PREFIX.$((10 + N))
  IP=$PREFIX.$((10 * K + N))
  TUNNEL_IP=$TUNNEL_PREFIX.$((10 * K + N))
  SUFFIX="" HOST=$CLOUD
  [ "$K" = 1 ] || SUFFIX=$K HOST=$CLOUD-compute$K
  M=$C/hosts/$HOST
  export CLOUD CONTROLLER
}

# machines_of_cloud: the numbers of its machines, as far as they were ever made.
machines_of_cloud() {
  local k=1
  while [ "$k" = 1 ] || [ -d "$C/hosts/$CLOUD-compute$k" ]; do
    printf '%s\n' "$k"
    k=$((k + 1))
  done
}

# clouds_made: the names of the clouds that exist, up or down.
clouds_made() {
  local name
  for name in $NAMES; do [ ! -d "$CLOUDS/$name/hosts" ] || printf '%s\n' "$name"; done
}
