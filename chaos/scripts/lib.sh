# shellcheck shell=bash
# What all of these scripts share; it is sourced, not run.
#
# A script sets `harm` and `undo`, both text for a shell on the host, after it has called `words`; then it calls
# `carry_out`. Its own comment is its help.
#
#   PONTOON_SSH    how a host is reached [ssh]; it is given the host and one command
#   PONTOON_SUDO   what commands there begin with [sudo]
#   PONTOON_PID    prints the node's process id there [systemctl show --property MainPID --value pontoon]
#   PONTOON_START  starts the node there [systemctl start pontoon]
#   PONTOON_STATE  a folder there, for who undoes what by itself [/run/pontoon-chaos]
#   PONTOON        the command line, for scripts that use the admin API [pontoon]; it reads PONTOON_ENDPOINT,
#                  PONTOON_TOKEN and PONTOON_CA_FILE
set -euo pipefail

name="$(basename "$0")"
dry="" back="" span="" harm="" undo="" host=""
rest=()

usage() {
    sed -n '2,/^# shellcheck/ { /^# shellcheck/!s/^# \{0,1\}//p }' "$0"
    cat <<'EOF'

  --undo         undo it
  --for SECONDS  undo it by itself after so long, also when this machine no longer reaches the host
  --dry-run      print what would be run, and run nothing
EOF
}

complain() {
    echo "$name: $*" >&2
    exit 64
}

# Reads the words of the command line; what is no option ends up in `rest`.
words() {
    while [ $# -gt 0 ]; do
        case "$1" in
        --help | -h)
            usage
            exit 0
            ;;
        --dry-run) dry=1 ;;
        --undo) back=1 ;;
        --for)
            shift
            span="${1:-}"
            [[ "$span" =~ ^[1-9][0-9]*$ ]] || complain "--for wants seconds"
            ;;
        --*) complain "there is no $1; see --help" ;;
        *) rest+=("$1") ;;
        esac
        shift
    done
}

# The same, for scripts that go to a host: the first word is the host.
words_of_host() {
    words "$@"
    [ "${#rest[@]}" -gt 0 ] || complain "which host? See --help"
    host="${rest[0]}"
    rest=("${rest[@]:1}")
}

find_pid() {
    # shellcheck disable=SC2016 # It is for the other shell.
    printf 'pid="$(%s)"; [ "${pid:-0}" -gt 1 ] || { echo "no node runs here" >&2; exit 69; }\n' \
        "${PONTOON_PID:-systemctl show --property MainPID --value pontoon}"
}

start_node() {
    echo "${PONTOON_START:-systemctl start pontoon}"
}

# A text as one word of any shell.
word() {
    printf "'%s'" "${1//\'/\'\\\'\'}"
}

# Runs a text in a shell on the host. sudo forgets where the ssh comes from, which `partition` wants to know.
on_host() {
    local ssh
    read -ra ssh <<<"${PONTOON_SSH:-ssh}"
    "${ssh[@]}" "$host" "${PONTOON_SUDO-sudo} env SSH_CLIENT=\"\${SSH_CLIENT:-}\" bash -euc $(word "$1")"
}

# Does what is asked for: the harm, the harm with its undoing, or the undoing.
#
# Whoever waits on the host to undo something leaves its process id there. It is ended by `--undo`, or it would undo
# once more: a clock would jump twice, and a later harm would end at the deadline of the first. For the same reason
# there is no second harm of a kind while it waits.
carry_out() {
    local folder="${PONTOON_STATE:-/run/pontoon-chaos}" mark="pontoon-chaos-$name" file waits text
    file="$(word "$folder/$name")"
    # The number may be another process's by now, which does not have this mark.
    waits="timer=\"\$(cat $file 2>/dev/null || true)\"
if [ -n \"\$timer\" ] && grep -qs $mark \"/proc/\$timer/cmdline\"; then"
    if [ -n "$back" ]; then
        # At its very beginning it has no session yet.
        text="$waits kill -- \"-\$timer\" 2>/dev/null || kill \"\$timer\"; fi
rm -f $file
$undo"
    else
        text="$waits echo '$name: it is about to be undone by itself; wait, or undo it by --undo' >&2; exit 75; fi"
        [ -z "$span" ] || text+=$'\n'"mkdir -p $(word "$folder")"
        text+=$'\n'"$harm"
        # The leader of a session of its own outlives the ssh, and is ended with its sleep.
        [ -z "$span" ] || text+="
setsid bash -c $(word "sleep $span; rm -f $file; $undo") $mark </dev/null >/dev/null 2>&1 &
echo \"\$!\" >$file"
    fi
    if [ -n "$dry" ]; then
        printf '# on %s\n%s\n' "$host" "$text"
    else
        on_host "$text"
    fi
}
