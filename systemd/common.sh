# shellcheck shell=bash
# What install.sh and uninstall.sh have in common; sourced by both.

# Used by the scripts that source this.
# shellcheck disable=SC2034
{
    service=llm-optimizer.service
    socket=llm-optimizer.socket
    gpu=llm-optimizer-gpu.service
    account=llm-optimizer
    mark="# Installed by llm-optimizer's install.sh, which writes it anew; change it with: systemctl edit"

    # DESTDIR stands before every path that is written, for trying it out and for images of other systems.
    root=${DESTDIR:-}
    units=$root/etc/systemd/system
    config=$root/etc/llm-optimizer.toml
    state=$root/var/lib/llm-optimizer
    cache=$root/var/cache/llm-optimizer
    # Not below the state: what the service's own account can write, root must not act upon.
    records=$root/var/lib/llm-optimizer-install
    replaced=$records/replaced
    before=$records/before
}

dry=

say() { printf '%s\n' "$*"; }

step() { printf '==> %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Everything that changes something goes through this.
run() {
    if [[ -n $dry ]]; then
        printf '    would run: %s\n' "$(printf '%q ' "$@")"
    else
        "$@"
    fi
}

need_root() {
    if [[ -z $dry && -z $root && $EUID -ne 0 ]]; then
        die "this changes the system: run it with sudo (or with --dry-run, to see what it would do)"
    fi
}

is_ours() { [[ -f $1 ]] && grep -qsF -- "$mark" "$1"; }

is_enabled() { [[ $(systemctl is-enabled "$1" 2>/dev/null) == enabled ]]; }

is_active() { systemctl is-active --quiet "$1" 2>/dev/null; }

# Whether a path lies where ProtectHome= lets no service look.
in_a_home() {
    case $1 in
        /home/* | ~root/* | /run/user/*) return 0 ;;
        *) return 1 ;;
    esac
}
