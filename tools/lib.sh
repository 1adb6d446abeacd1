# Shared by the scripts in tools/: messages, Debian's sources, stamps.
# Sourced, not run.

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The code name of this Debian release, for example "bookworm".
debian_codename() {
  (
    ID='' VERSION_CODENAME=''
    [ -r /etc/os-release ] && . /etc/os-release
    [ "$ID" = debian ] && [ -n "$VERSION_CODENAME" ] && printf '%s\n' "$VERSION_CODENAME"
  )
}

# debian_sources DIRECTORY [SUITE]: copy the machine's own Debian sources to
# DIRECTORY/debian.sources and DIRECTORY/debian.list (either may be absent), and
# nothing from other vendors. With SUITE, that suite in place of the release's.
# A mirror that an operator chose is so used for everything.
debian_sources() {
  local directory=$1 suite=${2:-} release
  release=$(debian_codename) || return 1
  rm -f "$directory/debian.sources" "$directory/debian.list"
  cat /dev/null /etc/apt/sources.list.d/*.sources 2>/dev/null |
    awk -v release="$release" -v suite="$suite" '
      BEGIN { RS = ""; FS = "\n"; ORS = "\n\n" }
      {
        main = 0; ours = 0; disabled = 0
        for (i = 1; i <= NF; i++) {
          if ($i ~ /^Enabled:[ \t]*no/) disabled = 1
          if ($i ~ /^Components:.*main/) main = 1
          if ($i !~ /^Suites:/) continue
          ours = 1
          n = split($i, word, /[ \t]+/)
          for (j = 2; j <= n; j++)
            if (word[j] != "" && word[j] != release && word[j] != release "-updates" &&
                word[j] != release "-security") ours = 0
          if (word[2] ~ /-security/ && suite != "") ours = 0
          if (suite != "") $i = "Suites: " suite
        }
        if (!ours || !main || disabled || (suite != "" && done++)) next
        text = $1
        for (i = 2; i <= NF; i++) text = text "\n" $i
        print text
      }' >"$directory/debian.sources"
  cat /dev/null /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    awk -v release="$release" -v suite="$suite" '
      $1 != "deb" { next }
      {
        for (i = 2; i <= NF; i++)
          if ($i == release || $i == release "-updates" || $i == release "-security") break
        if (i > NF || $(i + 1) != "main") next
        if (suite != "") { if ($i != release || done++) next; $i = suite }
        print
      }' >"$directory/debian.list"
  if [ -n "$suite" ] && [ -s "$directory/debian.sources" ]; then rm -f "$directory/debian.list"; fi
  find "$directory" -maxdepth 1 -name 'debian.*' -size 0 -delete
  [ -e "$directory/debian.sources" ] || [ -e "$directory/debian.list" ]
}

# digest_of PATH...: one digest over names, modes and content.
digest_of() {
  {
    find "$@" -type f -printf '%p %m\n' -o -type l -printf '%p %l\n' | LC_ALL=C sort
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d' ' -f1
}
