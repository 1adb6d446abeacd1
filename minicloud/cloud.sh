# shellcheck shell=bash
# A whole cloud: up, down, restart of services. Sourced, not run.

# fill WHAT...: accounts and content, made by one Python process (each "openstack" command
# takes seconds to start).
fill() {
  logged_step content env CLOUD="$CLOUD" CONTROLLER="$CONTROLLER" "$VENV/bin/python" "$PARTS/content.py" "$@"
}

# Nova's services start again when what they are made of has changed.
nova_is_current() {
  local k now stamp=$C/state/.nova
  now="$(digest_of "$C/etc/nova.conf" "$C/etc/api-paste.ini") $(cat "$VENV/.package" 2>/dev/null)"
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" != "$now" ]; then
    step "$CLOUD: the extension or its configuration has changed, Nova starts again"
    # shellcheck disable=SC2046,SC2086
    stop $WITH_EXTENSION $(for k in $(machines_of_cloud); do [ "$k" = 1 ] || echo "compute$k"; done)
  fi
  printf '%s\n' "$now" >"$stamp"
}

# on_every_machine NAME: the names that this service has on the machines of the cloud.
on_every_machine() {
  local k
  for k in $(machines_of_cloud); do [ "$k" = 1 ] && echo "$1" || echo "$1$k"; done
}

# cloud_up COMPUTES: make what is missing, start what does not run. COMPUTES machines at least.
cloud_up() {
  local computes=$1 k began=$SECONDS
  for k in $(machines_of_cloud); do [ "$k" -le "$computes" ] || computes=$k; done
  for ((k = 1; k <= computes; k++)); do
    use_cloud "$CLOUD" "$k"
    machine_up
    write_configuration
  done
  use_cloud "$CLOUD"
  # shellcheck disable=SC2046
  {
    begin epmd rabbitmq db $(on_every_machine libvirtd)
    ready db
    databases_up
    step "$CLOUD: MariaDB is up"
    begin $(on_every_machine ovsdb) ovn-nb ovn-sb
    ready $(on_every_machine ovsdb) ovn-nb ovn-sb
    begin $(on_every_machine vswitchd) $(on_every_machine taps) northd $(on_every_machine ovn-controller)
    ready rabbitmq $(on_every_machine libvirtd) northd $(on_every_machine ovn-controller)
    ready $(on_every_machine vswitchd) $(on_every_machine taps)
  }
  step "$CLOUD: RabbitMQ, libvirt and OVN are up"
  apis_up
  # shellcheck disable=SC2046
  begin $(on_every_machine compute)
  # shellcheck disable=SC2046
  ready conductor scheduler $(on_every_machine compute)
  step "$CLOUD: $(on_every_machine compute | wc -l) compute host(s) up"
  content_up
  step "$CLOUD: up after $((SECONDS - began)) s"
}

apis_up() {
  nova_is_current
  begin keystone glance placement
  ready keystone
  # While the others start: what they need to find each other.
  if [ ! -e "$C/state/.catalog" ]; then
    fill catalog
    touch "$C/state/.catalog"
    step "$CLOUD: catalogue written"
  fi
  begin conductor scheduler nova-api neutron
  ready glance placement nova-api neutron
  step "$CLOUD: Keystone, Glance, Placement, Neutron and Nova answer"
}

# What a user finds in the cloud. Made again when a guest image or this list has changed.
content_up() {
  local wanted
  wanted=$(digest_of "$PARTS/content.py" "$CACHE/guest/stamp")$(stat -c %Y "$GUESTS/debian.qcow2" 2>/dev/null || true)
  if [ "$(cat "$C/state/.content" 2>/dev/null)" != "$wanted" ]; then
    fill content
    printf '%s\n' "$wanted" >"$C/state/.content"
    tenant_port
    step "$CLOUD: accounts, flavors, images and network \"lab\" are there"
  fi
  write_clouds_yaml
}

# The accounts of all clouds.
write_clouds_yaml() {
  local name words=()
  for name in $(clouds_made); do words+=("$name=$PREFIX.$((10 + $(number_of "$name")))"); done
  "$VENV/bin/python" "$PARTS/content.py" clouds-yaml "${words[@]}"
}

# The guests first: once libvirtd has started them they are no children of its.
guests_end() {
  local domain
  alive "libvirtd$SUFFIX" && inside_is_ready || return 0
  for domain in $(inside virsh -q list --name 2>/dev/null); do
    inside virsh -q destroy "$domain" >/dev/null 2>&1 || true
  done
}

cloud_down() {
  local k
  [ -d "$C/pids" ] || return 0
  for k in $(machines_of_cloud); do
    use_cloud "$CLOUD" "$k"
    guests_end
  done
  use_cloud "$CLOUD"
  # shellcheck disable=SC2046
  stop $(services_of_cloud | grep -vx db)
  stop db # last, so that the others can say good-bye
  for k in $(machines_of_cloud | sort -rn); do
    use_cloud "$CLOUD" "$k"
    machine_end
  done
  use_cloud "$CLOUD"
  step "$CLOUD: down"
}

# restart_services NAME...: end them, start them, wait for them.
restart_services() {
  local name known
  known=$(services_of_cloud)
  [ $# -gt 0 ] || die "restart what? $CLOUD has: $(echo "$known" | tr '\n' ' ')"
  for name in "$@"; do
    grep -x -- "$name" <<<"$known" >/dev/null ||
      die "cloud $CLOUD has no service '$name'; it has: $(echo "$known" | tr '\n' ' ')"
  done
  alive host || die "$CLOUD is not up: tools/minicloud up"
  stop "$@"
  begin "$@"
  ready "$@"
  step "$CLOUD: up again: $*"
}
