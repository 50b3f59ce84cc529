#!/usr/bin/env bash
# Takes away what install.sh has installed, and brings back what it has put aside.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=systemd/common.sh
source "$here/common.sh"

purge=
prefix=

usage() {
    cat <<'USAGE'
Usage: systemd/uninstall.sh [OPTION]...

Stops and disables the service, removes its units, and brings back what --replace-ollama had put aside. Settings,
models, caches, the program and the account stay, unless --purge is given.

  --purge    remove those, too: /etc/llm-optimizer.toml, /var/lib/llm-optimizer with all models in it,
             /var/cache/llm-optimizer, the program, the account
  --dry-run  say what would be done, and do nothing
  --help     show this text
USAGE
}

while (($#)); do
    case $1 in
        --purge) purge=yes ;;
        --dry-run) dry=yes ;;
        --help) usage; exit ;;
        *) usage >&2; die "there is no option $1" ;;
    esac
    shift
done

remove_units() {
    local name
    for name in "$socket" "$service" "$gpu"; do
        is_ours "$units/$name" || continue
        step "Removing $name"
        run systemctl disable --now "$name"
        run rm -f "$units/$name"
    done
    run rm -f "$units/$service.d/10-backoff.conf"
    if [[ -d $units/$service.d ]]; then put_own_drop_ins_aside; fi
}

# What somebody has changed with systemctl edit was meant for this service, and must not change the former one.
put_own_drop_ins_aside() {
    run rmdir --ignore-fail-on-non-empty "$units/$service.d"
    if [[ -d $units/$service.d && -z $dry ]]; then
        say "Your own changes of the unit are kept in $units/$service.d.saved."
        rm -rf "$units/$service.d.saved"
        mv "$units/$service.d" "$units/$service.d.saved"
    fi
}

bring_back() {
    if [[ -f $before/$service ]]; then
        step "Bringing back the former $service"
        run mv "$before/$service" "$units/$service"
        if [[ -d $before/$service.d ]]; then run mv "$before/$service.d" "$units/$service.d"; fi
    fi
    run systemctl daemon-reload
    [[ -f $replaced ]] || return 0
    local name enabled active
    while read -r name enabled active; do
        step "Bringing back $name"
        if [[ $enabled == yes ]]; then run systemctl enable "$name"; fi
        if [[ $active == yes ]]; then run systemctl start "$name"; fi
    done <"$replaced"
    run rm -rf "$records"
}

remove_the_rest() {
    if [[ -z $purge ]]; then
        say "Settings ($config), models ($state), caches ($cache), the program"
        say "and the account stay; --purge removes them."
        return
    fi
    step "Removing settings, models, caches, program and account"
    run rm -rf "$config" "$state" "$cache"
    # Only what install.sh has put there: a checkout that somebody works in stays.
    if [[ -n $prefix && -d $root$prefix/.venv && ! -e $root$prefix/.git ]]; then run rm -rf "$root$prefix"; fi
    if getent passwd "$account" >/dev/null; then run userdel "$account"; fi
}

need_root
# Where the program is stands in the unit, which is gone in the end.
if is_ours "$units/$service"; then
    prefix=$(sed -n 's|^ExecStart=\(/.*\)/.venv/bin/llm-optimizer .*|\1|p' "$units/$service")
fi
remove_units
bring_back
remove_the_rest
