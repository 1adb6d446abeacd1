# shellcheck shell=bash
# The guest images: "minicloud-guest" boots from its own disk in a second or two; the
# Debian guest of tools/guest, where it is built, boots by kernel and initial RAM disk.
# Sourced, not run.

# build_guests: to CACHE/guest, when the files that make them have changed.
build_guests() {
  local stamp
  mkdir -p "$GUESTS" "$CACHE/guest"
  stamp=$(cd "$PARTS" && digest_of guest guest.sh ../tools/guests/lib.sh)
  [ "$(cat "$CACHE/guest/stamp" 2>/dev/null)" != "$stamp" ] || return 0
  # Two builders at once, tools/guest among them, would spoil each other's files.
  (
    flock 8
    make_guests
  ) 8>"$GUESTS/.lock"
  printf '%s\n' "$stamp" >"$CACHE/guest/stamp"
  step "guest image built"
}

make_guests() (
  TOOLS=$ROOT/tools
  out=$CACHE/guest
  . "$TOOLS/guests/lib.sh"
  need busybox cpio depmod mcopy mkfs.vfat modprobe syslinux
  kernel
  initrd "$PARTS/guest/init" "$out/guest.initrd" /www /www/cgi-bin
  initrd "$PARTS/guest/init-debian" "$out/debian.initrd"
  # A file system without a partition table: syslinux needs neither a mount nor a loop device.
  rm -f "$out/guest.raw"
  truncate -s 48M "$out/guest.raw"
  mkfs.vfat -n MINICLOUD "$out/guest.raw" >/dev/null
  syslinux --install "$out/guest.raw"
  {
    printf 'DEFAULT guest\nPROMPT 0\nLABEL guest\n  KERNEL vmlinuz\n  INITRD guest.ird\n'
    echo "  APPEND console=ttyS0 $COMMAND_LINE"
  } >"$out/syslinux.cfg"
  mcopy -i "$out/guest.raw" "$GUESTS/vmlinuz" "$out/syslinux.cfg" ::
  mcopy -i "$out/guest.raw" "$out/guest.initrd" ::guest.ird
)
