# shellcheck shell=bash
# Processes: each is known by its pid and its start time, so that a pid which the kernel
# has given to something else since is never signalled. Sourced, not run.

# pid_start PID: the kernel's start time of a process; nothing when it has ended.
pid_start() {
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  # shellcheck disable=SC2086
  set -- ${line##*) } # what follows the name, which may hold blanks
  [ "$1" = Z ] || printf '%s\n' "${20}"
}

# recorded NAME: set "pid" if the process that was started under this name still runs.
recorded() {
  local began
  pid=""
  read -r pid began 2>/dev/null <"$C/pids/$1" || return 1
  [ -n "$pid" ] && [ "$(pid_start "$pid")" = "$began" ]
}

alive() {
  local pid
  recorded "$1"
}

# launch NAME COMMAND...: run it in the background, its output to logs/NAME.log. What the
# caller set for a client of some cloud does not reach it.
launch() {
  local name=$1 pid
  shift
  mkdir -p "$C/pids" "$C/logs"
  printf '== %s: %s\n' "$(date '+%F %T')" "$*" >>"$C/logs/$name.log"
  (
    for variable in $(compgen -e | grep '^OS_' || true); do unset "$variable"; done
    exec setsid "$@"
  ) >>"$C/logs/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  disown "$pid" 2>/dev/null || true
  printf '%s %s\n' "$pid" "$(pid_start "$pid")" >"$C/pids/$name"
}

# tree PID: it and all of its descendants.
tree() {
  local child
  printf '%s\n' "$1"
  for child in $(cat "/proc/$1/task/"*/children 2>/dev/null || true); do tree "$child"; done
}

# end SECONDS PID...: ask these processes to end, and end those that have not after that time.
end() {
  local limit=$1 pid left=() i
  shift
  local -A began=()
  for pid in "$@"; do began[$pid]=$(pid_start "$pid"); done
  for pid in "$@"; do [ -z "${began[$pid]}" ] || kill -TERM "$pid" 2>/dev/null || true; done
  for ((i = 0; i < limit * 5; i++)); do
    left=()
    for pid in "$@"; do
      [ -z "${began[$pid]}" ] || [ "$(pid_start "$pid")" != "${began[$pid]}" ] || left+=("$pid")
    done
    [ ${#left[@]} -gt 0 ] || return 0
    sleep 0.2
  done
  for pid in "${left[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  sleep 0.2
}

# stop NAME...: end those services and their children, and nothing else.
stop() {
  local name pid pids=()
  for name in "$@"; do
    # shellcheck disable=SC2207
    ! recorded "$name" || pids+=($(tree "$pid"))
  done
  [ ${#pids[@]} = 0 ] || end 15 "${pids[@]}"
  for name in "$@"; do rm -f "$C/pids/$name"; done
}

# why_not NAME WHAT: the end of that service's log, then die.
why_not() {
  local file=$C/logs/$1.log
  printf '%s\n' "--- end of $file" >&2
  tail -n 15 "$file" 2>/dev/null | cut -c1-400 >&2 || true
  die "$CLOUD: $2; the log is $file"
}

# wait_for NAME SECONDS CHECK...: until CHECK succeeds; the service must not end meanwhile.
wait_for() {
  local name=$1 limit=$(($2 * MINICLOUD_PATIENCE)) began=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    alive "$name" || why_not "$name" "$name has ended"
    [ $((SECONDS - began)) -lt "$limit" ] || why_not "$name" "$name is not ready after $limit s"
    sleep 0.3
  done
}
