# shellcheck shell=bash
# The environment that scripts/run, test, check and gpu_check share: .venv in the repository, installed once per pyproject.toml.
# Sourced, not run. Needs nothing but Python; PYTHON names another interpreter than the first suitable one on the PATH.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT" || exit 1
VENV="$ROOT/.venv"
LOGS="$ROOT/out/logs"

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# find_python: the first interpreter that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed (found: $(python3 --version 2>&1 || true)). Install it, or set PYTHON=/path/to/python3.12."
}

# heartbeat LOG: every ten seconds, one line saying how long it has been and what the log's last line is.
heartbeat() {
    local log="$1" start=$SECONDS
    while sleep 10; do
        printf '    %4d s  %s\n' $((SECONDS - start)) "$(tail -n 1 "$log" 2>/dev/null | tr -d '\r' | cut -c 1-100)"
    done
}

# logged NAME COMMAND...: run it with its output in out/logs/NAME.log, a sign of life meanwhile, and the log's tail if it fails.
logged() {
    local log="$LOGS/$1.log" pulse status=0
    shift
    mkdir -p "$LOGS"
    : >"$log"
    heartbeat "$log" &
    pulse=$!
    trap 'kill "$pulse" 2>/dev/null; exit 130' INT TERM
    "$@" >"$log" 2>&1 || status=$?
    trap - INT TERM
    kill "$pulse" 2>/dev/null
    wait "$pulse" 2>/dev/null
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$log" >&2
        fail "'$*' failed with status $status; the whole log is $log"
    fi
}

# stamp EXTRAS: what the environment must have been installed from to count as up to date.
stamp() {
    { cat pyproject.toml && printf '%s %s\n' "$ROOT" "$1"; } | cksum
}

# set_up NAME EXTRAS [PACKAGE...]: make .venv and install the project, unless that was done for this pyproject.toml before.
set_up() {
    local name="$1" extras="$2" wanted python
    shift 2
    mkdir -p "$LOGS"
    exec 9>"$LOGS/.lock"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        say "Waiting for another set-up in this folder ..."
        flock 9
    fi
    if [ ! -x "$VENV/bin/python" ] || [ ! -x "$VENV/bin/pip" ]; then
        python="$(find_python)" || exit 1
        say "Making .venv with $("$python" --version) ..."
        logged venv "$python" -m venv "$VENV"
    fi
    wanted="$(stamp "$extras $*")"
    if [ "$(cat "$VENV/.installed-$name" 2>/dev/null)" != "$wanted" ]; then
        say "Installing Aquatint${extras:+ with $extras} into .venv (torch is large: a few minutes the first time) ..."
        logged "install-$name" "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e ".$extras" "$@"
        printf '%s\n' "$wanted" >"$VENV/.installed-$name"
    fi
    exec 9>&-
}
