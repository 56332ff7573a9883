# shellcheck shell=bash
# The static checks, in the order of their cost. Sourced by scripts/check and scripts/test after environment.sh.

# step NAME COMMAND...: one line before, and the time it took after.
step() {
    local name="$1" start=$SECONDS status=0
    shift
    say "== $name"
    "$@" || status=$?
    [ "$status" -eq 0 ] || { printf 'error: %s failed (%d s)\n' "$name" $((SECONDS - start)) >&2 && return "$status"; }
    say "   $name: ok, $((SECONDS - start)) s"
}

# static_checks: lint, format, types, architecture; all of them run, the status says whether one failed.
static_checks() {
    local failed=0
    step "ruff check" "$VENV/bin/ruff" check --quiet . || failed=1
    step "ruff format" "$VENV/bin/ruff" format --quiet --check . || failed=1
    step "import-linter" "$VENV/bin/lint-imports" --no-logo || failed=1
    step "mypy" "$VENV/bin/mypy" || failed=1
    return "$failed"
}
