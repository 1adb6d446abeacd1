# shellcheck shell=bash disable=SC2153
# Debian's packages and the Python environment of the minicloud. Sourced, not run.

LIBVIRT_NEEDED=10.0.0 # what cloudlet-status asks for, too: distributions have it beside QEMU 8.2

# Debian starts what it installs; here every service runs in a machine of its own instead.
without_starting() {
  local policy=/usr/sbin/policy-rc.d
  [ ! -e $policy ] || { "$@"; return; }
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  # shellcheck disable=SC2064
  trap "rm -f $policy" EXIT
  "$@"
  rm -f $policy
}

python_headers() {
  "$MINICLOUD_PYTHON" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())'
}

install_debian() {
  local list=$PARTS/bindep.txt
  if [ -n "$(missing_packages "$list")" ]; then
    without_starting install_packages "$list" backports libvirt0 $LIBVIRT_NEEDED
    step "Debian packages installed"
  fi
  dpkg --compare-versions "$(libvirt_version)" ge $LIBVIRT_NEEDED ||
    die "libvirt $LIBVIRT_NEEDED or newer is needed; $(libvirt_version) is installed"
  nova_user
  python_headers || logged "apt-get install python3-dev" apt_get install python3-dev
}

# The user of nova-compute, made as the packages of Debian and Ubuntu make it.
nova_user() {
  id $NOVA_USER >/dev/null 2>&1 || logged "adding user $NOVA_USER" useradd --system --user-group \
    --home-dir /var/lib/nova --shell /usr/sbin/nologin $NOVA_USER
  [[ " $(id -nG $NOVA_USER) " == *" libvirt "* ]] ||
    logged "adding $NOVA_USER to group libvirt" usermod -aG libvirt $NOVA_USER
}

as_nova() { setpriv --reuid=$NOVA_USER --regid=$NOVA_USER --init-groups "$@"; }

libvirt_version() { libvirtd --version | awk '{ print $3 }'; }

# uv is asked for what pip would take: the operator's settings are pip's.
uv_settings() {
  local name value
  while IFS='=' read -r name value; do
    value=${value#\'}
    value=${value%\'}
    case ${name#*.} in
      index-url) export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$value} ;;
      extra-index-url) export UV_INDEX=${UV_INDEX:-$value} UV_INDEX_STRATEGY=unsafe-best-match ;;
      find-links) export UV_FIND_LINKS=${UV_FIND_LINKS:-${value// /,}} ;;
      cert) export SSL_CERT_FILE=${SSL_CERT_FILE:-$value} ;;
    esac
  done < <("$VENV/bin/pip" config list)
  export VIRTUAL_ENV=$VENV UV_CACHE_DIR=$CACHE/uv UV_LINK_MODE=hardlink UV_HTTP_TIMEOUT=180 UV_NO_PROGRESS=1
}

uv() { "$VENV/bin/uv" "$@"; }

install_venv() {
  local stamp
  stamp="$(digest_of "$PARTS/requirements.lock") $(libvirt_version) $MINICLOUD_PYTHON $("$MINICLOUD_PYTHON" --version)"
  [ "$(cat "$VENV/.installed" 2>/dev/null)" != "$stamp" ] || return 0
  "$MINICLOUD_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "Python 3.11 or newer is needed; $MINICLOUD_PYTHON is $("$MINICLOUD_PYTHON" --version)"
  as_nova "$MINICLOUD_PYTHON" -c "" ||
    die "$MINICLOUD_PYTHON cannot be run by user $NOVA_USER: name one in MINICLOUD_PYTHON that every user can run"
  [ "$(readlink -f "$VENV/bin/python")" = "$(readlink -f "$(command -v "$MINICLOUD_PYTHON")")" ] ||
    logged "making $VENV" "$MINICLOUD_PYTHON" -m venv --clear "$VENV"
  [ -x "$VENV/bin/uv" ] || logged "installing uv" "$VENV/bin/pip" install --disable-pip-version-check uv
  uv_settings
  logged "installing OpenStack" uv pip install -r "$PARTS/requirements.lock"
  step "OpenStack installed into $VENV"
  # The binding is compiled against the libvirt that is installed.
  logged "building libvirt-python" uv pip install "libvirt-python==$(libvirt_version)"
  rm -f "$VENV/.package"
  printf '%s\n' "$stamp" >"$VENV/.installed"
  step "libvirt-python $(libvirt_version) built"
}

# installed_how: as what our package is installed now; a wheel if it is not.
installed_how() { [[ $(cat "$VENV/.package" 2>/dev/null) == editable* ]] && echo editable || echo wheel; }

# package_files: what the package is made of, as far as it is there.
package_files() {
  local parts="cloudlet_ext setup.py setup.cfg pyproject.toml requirements.txt README.rst LICENSE" file
  # shellcheck disable=SC2086
  { git ls-files -z -co --exclude-standard -- $parts 2>/dev/null ||
    find $parts -type f ! -name '*.pyc' -print0; } |
    while IFS= read -r -d '' file; do [ ! -f "$file" ] || printf '%s\n' "$file"; done
}

# install_package wheel|editable: our own package, as a user or as a developer has it.
install_package() {
  local how=$1 work stamp version source
  cd "$ROOT" || return
  work=$(mktemp -d "$WORK/package.XXXXXX")
  # A copy of the tree as it is, with an index of git's, by which pbr knows what belongs to
  # the package; a build in the tree would find the leftovers of others.
  package_files | tar -c --verbatim-files-from -T - | tar -x -C "$work"
  stamp="wheel $(cd "$work" && digest_of .)"
  # In the tree itself only entry points and the like are fixed at installation.
  [ "$how" = wheel ] || stamp="editable $ROOT $(digest_of setup.cfg pyproject.toml)"
  if [ "$(cat "$VENV/.package" 2>/dev/null)" != "$stamp" ]; then
    uv_settings
    version=$("$VENV/bin/python" setup.py --version 2>/dev/null | tail -n 1) || version=0.0.0
    git -C "$work" init -q
    git -C "$work" add -A
    source=("$work")
    [ "$how" = wheel ] || source=(--editable "$ROOT")
    PBR_VERSION=$version logged "installing cloudlet-ext" uv pip install --no-deps --no-build-isolation \
      --reinstall-package cloudlet-ext "${source[@]}"
    link_driver
    printf '%s\n' "$stamp" >"$VENV/.package"
    step "cloudlet-ext $version installed ($how)"
  fi
  rm -rf "$work"
}

# Nova finds compute drivers below nova.virt only.
link_driver() {
  if "$VENV/bin/python" -c 'import cloudlet_ext.cmd.manage' 2>/dev/null; then
    (cd / && logged "cloudlet-manage driver link" "$VENV/bin/python" -m cloudlet_ext.cmd.manage driver link)
  fi
}

# Fail before a cloud is started that could not work.
check_extension() {
  [ "$MINICLOUD_EXTENSION" != 0 ] && [ ! "$VENV/.checked" -nt "$VENV/.package" ] || return 0
  (cd / && logged "importing the extension (MINICLOUD_EXTENSION=0 leaves it out)" \
    "$VENV/bin/python" -c 'import cloudlet_ext.nova.filter, nova.virt.cloudlet')
  touch "$VENV/.checked"
}

# install_all wheel|editable
install_all() {
  install_debian
  install_venv
  install_package "$1"
}
