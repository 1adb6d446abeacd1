# Shared by the scripts in tools/ that install Debian packages. Sourced after lib.sh, not
# run. Expects LOG, the file for what apt and pip say.

# logged WHAT COMMAND...: its output goes to LOG; the end of it is shown when it fails.
logged() {
  local what=$1
  shift
  printf '\n== %s: %s\n' "$(date +%T)" "$*" >>"$LOG"
  "$@" >>"$LOG" 2>&1 && return 0
  printf '%s\n' "--- end of $LOG" >&2
  tail -n 25 "$LOG" >&2
  die "$what failed"
}

# packages FILE [PROFILE]: the Debian packages that a bindep file names; with a word,
# only those of this profile.
packages() {
  awk -v profile="${2:-}" '
    /^[a-z0-9]/ && /platform:dpkg/ && (profile == "" || index($0, " " profile "]")) { print $1 }' "$1"
}

# missing_packages FILE: those of them that are not installed.
missing_packages() {
  # shellcheck disable=SC2046
  comm -23 <(packages "$1" | LC_ALL=C sort) <(
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' $(packages "$1") 2>/dev/null |
      awk '$1 == "installed" { print $2 }' | LC_ALL=C sort
  )
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=900 \
    -o Acquire::Retries=3 --no-install-recommends "$@"
}

# released PACKAGE, backported PACKAGE: the newest version in the release itself, and in
# its backports; nothing when there is none.
released() { apt-cache madison "$1" | awk -F'|' '!index($3, "-backports") && !n++ { gsub(/ /, "", $2); print $2 }'; }
backported() {
  apt-cache madison "$1" | awk -F'|' -v suite="$(debian_codename)-backports" '
    index($3, suite) && !n++ { gsub(/ /, "", $2); print $2 }'
}

# add_backports WHY: give apt the release's backports, from where its own packages come.
add_backports() {
  local suite directory kind
  suite=$(debian_codename)-backports
  directory=$(mktemp -d)
  debian_sources "$directory" "$suite" || die "no source for Debian $(debian_codename) in /etc/apt: add one first"
  for kind in sources list; do
    [ ! -e "$directory/debian.$kind" ] ||
      install -m 644 "$directory/debian.$kind" "/etc/apt/sources.list.d/cloudlet-backports.$kind"
  done
  rm -rf "$directory"
  say "added $suite to apt's sources, for $1 only"
  logged "apt-get update" apt_get update
}

# install_packages FILE PROFILE LEADER MINIMUM: install what FILE names. Where the
# release's own LEADER is older than MINIMUM, the packages of PROFILE come from its
# backports; nothing else on the machine changes its release.
install_packages() {
  local file=$1 profile=$2 leader=$3 minimum=$4 package version from_backports="" wanted=()
  say "installing Debian packages (log: $LOG)"
  logged "apt-get update" apt_get update
  if dpkg --compare-versions "$(released "$leader")" lt "$minimum"; then
    [ -n "$(backported "$leader")" ] || add_backports "$profile"
    from_backports=" $(packages "$file" "$profile" | tr '\n' ' ')"
  fi
  for package in $(packages "$file"); do
    version=""
    [[ $from_backports != *" $package "* ]] || version=$(backported "$package")
    wanted+=("$package${version:+=$version}")
  done
  logged "apt-get install" apt_get install "${wanted[@]}"
}
