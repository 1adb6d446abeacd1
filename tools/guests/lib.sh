# Shared by the guest builders. Expects TOOLS (the tools directory) and GUESTS
# (the output directory). Sourced, not run.
. "$TOOLS/lib.sh"
APT=$GUESTS/.apt
export LC_ALL=C
# Files of a built image carry this time, so that two builds from the same
# packages differ as little as can be.
export SOURCE_DATE_EPOCH=1735689600

# mitigations, randomised kernel addresses and big pages cost an emulated guest
# time and give a test nothing; the timer check fails on a busy host.
COMMAND_LINE="net.ifnames=0 quiet loglevel=3 no_timer_check tsc=reliable mitigations=off nokaslr \
transparent_hugepage=never audit=0 lsm=yama cryptomgr.notests 8250.nr_uarts=1 random.trust_cpu=on \
panic=-1 reboot=t"

need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die "$command is missing; run tools/install as root first"
  done
}

# apt_private STATUS ARG...: apt-get with Debian's sources only and state of its
# own; STATUS is the dpkg status file that says what counts as installed.
apt_private() {
  local status=$1
  shift
  apt-get -q -o Dir::State="$APT/state" -o Dir::State::status="$status" \
    -o Dir::Cache="$APT/cache" -o Dir::Etc::SourceList=/dev/null \
    -o Dir::Etc::SourceParts="$APT/sources" -o Dir::Etc::Preferences=/dev/null \
    -o Dir::Etc::PreferencesParts=/dev/null -o Acquire::Languages=none \
    -o APT::Install-Recommends=false -o APT::Architecture=amd64 \
    -o APT::Sandbox::User=root "$@"
}

apt_update() {
  [ -n "$(find "$APT/updated" -mmin -60 2>/dev/null)" ] && return 0
  mkdir -p "$APT/sources" "$APT/state/lists/partial" "$APT/cache/archives/partial"
  : >"$APT/empty"
  debian_sources "$APT/sources" || die "no Debian source in /etc/apt: this needs Debian 12 or newer"
  apt_private "$APT/empty" update >"$APT/log" 2>&1 || { tail -20 "$APT/log" >&2; die "apt-get update failed"; }
  touch "$APT/updated"
}

# Modules that any guest here gets; everything else in the kernel package is left out.
MODULES="virtio_pci virtio_blk virtio_net virtio_balloon virtio_console virtio-rng crc32c-intel"

# kernel: unpack Debian's cloud kernel to GUESTS/vmlinuz and GUESTS/.kernel, once.
kernel() {
  [ -s "$GUESTS/vmlinuz" ] && [ -s "$GUESTS/.kernel/version" ] && return 0
  local work=$GUESTS/.kernel.new package version
  apt_update
  rm -rf "$work" "$GUESTS/.kernel"
  mkdir -p "$work/deb"
  package=$(apt_private "$APT/empty" -s install linux-image-cloud-amd64 |
    awk '/^Inst linux-image-[0-9]/ { print $2; exit }')
  [ -n "$package" ] || die "Debian's sources hold no linux-image-cloud-amd64"
  say "kernel: $package"
  (cd "$work/deb" && apt_private "$APT/empty" download "$package" >/dev/null) ||
    die "cannot download $package"
  dpkg-deb -x "$work"/deb/*.deb "$work/root"
  version=$(ls "$work/root/lib/modules")
  depmod -b "$work/root" "$version"
  mkdir -p "$work/modules/lib/modules/$version"
  echo "$version" >"$work/version"
  local name path
  for name in $MODULES; do
    modprobe -d "$work/root" -S "$version" --show-depends "$name" | awk '/^insmod/ { print $2 }'
  done | awk '!seen[$0]++' | while read -r path; do
    path=${path#"$work/root/"}
    path=${path#/}
    install -D -m 644 "$work/root/$path" "$work/modules/$path"
    basename "$path"
  done >"$work/order"
  cp "$work/root/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} \
    "$work/modules/lib/modules/$version/"
  depmod -b "$work/modules" "$version"
  cp "$work"/root/boot/vmlinuz-* "$GUESTS/vmlinuz"
  rm -rf "$work/root" "$work/deb"
  mv "$work" "$GUESTS/.kernel"
}

# initrd INIT OUT [DIRECTORY...]: busybox, the modules and INIT as /init. Not
# compressed: QEMU copies it into the guest faster than an emulated guest unpacks it.
initrd() {
  local init=$1 out=$2 work
  shift 2
  work=$(mktemp -d "$GUESTS/.initrd.XXXXXX")
  mkdir -p "$work"/{bin,dev,proc,sys,root,lib/modules,tmp} "${@/#/$work}"
  chmod 755 "$work"
  cp /bin/busybox "$work/bin/busybox"
  cp "$init" "$work/init"
  find "$GUESTS/.kernel/modules" -name '*.ko' -exec cp {} "$work/lib/modules/" \;
  cp "$GUESTS/.kernel/order" "$work/lib/modules/order"
  find "$work" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  (cd "$work" && find . -print0 | sort -z |
    cpio --null --quiet --reproducible -o -H newc -R 0:0) >"$out.new"
  mv "$out.new" "$out"
  rm -rf "$work"
}
