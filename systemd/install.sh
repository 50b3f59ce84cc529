#!/usr/bin/env bash
# Installs llm-optimizer as a service of systemd. Run it again after an update: it changes what has to change.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=systemd/common.sh
source "$here/common.sh"

source_tree=$(dirname "$here")
prefix=/opt/llm-optimizer
with_socket=
replace=
files_only=
start=yes
build=yes

usage() {
    cat <<'USAGE'
Usage: systemd/install.sh [OPTION]...

Copies the program to /opt/llm-optimizer and builds it there (make install), makes the account llm-optimizer,
/etc/llm-optimizer.toml if there is none, and the units; then starts the service. Can be run again at any time.

  --replace-ollama  stop and disable the Ollama units and the old proxy of the same name, and remember what
                    was enabled and running: uninstall.sh brings it back
  --socket          enable llm-optimizer.socket, too: a restart then refuses no connection
  --prefix DIR      another place for the program
  --no-build        do not run make install
  --no-start        install and enable nothing that runs
  --files-only      only write files: no account, no systemctl (for packages, with DESTDIR)
  --dry-run         say what would be done, and do nothing
  --help            show this text

CMAKE_ARGS is handed to the build; without it, what the tree beside this script was built with counts.
DESTDIR stands before every path that is written.
USAGE
}

while (($#)); do
    case $1 in
        --replace-ollama) replace=yes ;;
        --socket) with_socket=yes ;;
        --prefix) prefix=${2:?--prefix needs a folder}; shift ;;
        --no-build) build= ;;
        --no-start) start= ;;
        --files-only) files_only=yes ;;
        --dry-run) dry=yes ;;
        --help) usage; exit ;;
        *) usage >&2; die "there is no option $1" ;;
    esac
    shift
done
[[ $prefix == /* ]] || die "--prefix must be an absolute path, and is $prefix"
if in_a_home "$prefix/"; then
    die "--prefix $prefix: the service may not look into home folders"
fi

program=$root$prefix

# -- what there is already ---------------------------------------------------------------------------------------

# The units of Ollama; some machines have one for each card.
ollama_units() {
    systemctl list-unit-files '*ollama*.service' --no-legend --plain 2>/dev/null | while read -r name _; do
        [[ $name == *@.service ]] || printf '%s\n' "$name"
    done
}

# The proxy that this service replaces had a unit of the same name.
old_proxy_is_there() { [[ -f $units/$service ]] && ! is_ours "$units/$service"; }

look_at_predecessors() {
    mapfile -t ollamas < <(ollama_units)
    in_use=()
    for name in "${ollamas[@]}"; do
        if is_active "$name" || is_enabled "$name"; then in_use+=("$name"); fi
    done
    if [[ -n $replace ]]; then return; fi
    if ((${#in_use[@]})); then
        say "Ollama is there: ${in_use[*]}. Its models take the memory of the cards. To stop and disable it:"
        say "    systemctl disable --now ${in_use[*]}      (undo: systemctl enable --now ${in_use[*]})"
        say "or run this with --replace-ollama, which uninstall.sh undoes."
    fi
    if old_proxy_is_there; then
        die "$units/$service is another program's, the old proxy's perhaps. --replace-ollama puts it aside" \
            "(uninstall.sh brings it back); or move it away yourself: systemctl disable --now $service"
    fi
}

# -- putting predecessors aside ----------------------------------------------------------------------------------

# Once only: a second run must not take what the first has disabled for what was there before.
remember() {
    local name=$1 enabled=no active=no
    if is_enabled "$name"; then enabled=yes; fi
    if is_active "$name"; then active=yes; fi
    if [[ -n $dry ]]; then
        say "    would remember: $name (enabled: $enabled, running: $active)"
    elif ! grep -qs "^$name " "$replaced"; then
        printf '%s %s %s\n' "$name" "$enabled" "$active" >>"$replaced"
    fi
}

put_predecessors_aside() {
    [[ -n $replace ]] || return 0
    step "Putting aside Ollama and the old proxy"
    run install -d -m 0700 "$records" "$before"
    for name in "${in_use[@]}"; do
        remember "$name"
        run systemctl disable --now "$name"
    done
    if old_proxy_is_there; then
        remember "$service"
        run systemctl disable --now "$service"
        run mv "$units/$service" "$before/$service"
        if [[ -d $units/$service.d ]]; then run mv "$units/$service.d" "$before/$service.d"; fi
    fi
}

# -- installing --------------------------------------------------------------------------------------------------

copy_program() {
    if [[ $source_tree -ef $program ]]; then return; fi
    step "Copying the program to $prefix"
    run install -d -m 0755 "$program"
    # What an older version had and this one has not must go.
    run rm -rf "$program/server"
    run cp -R --no-preserve=ownership "$source_tree"/{server,scripts,requirements,systemd,docs} \
        "$source_tree"/{Makefile,pyproject.toml,README.md,LICENSE,CHANGELOG.md} "$program/"
    run install -d -m 0755 "$program/models"
    run install -m 0644 "$source_tree"/models/{README.md,SHA256SUMS,catalogue.toml,embedded.toml} "$program/models/"
    run chmod -R a+rX "$program/"{server,scripts,requirements,systemd,docs}
}

build_program() {
    [[ -n $build ]] || return 0
    step "Building in $prefix (the first time takes minutes)"
    local flags=${CMAKE_ARGS:-}
    if [[ -z ${CMAKE_ARGS+given} && ! -e $program/.venv/cmake-args && -r $source_tree/.venv/cmake-args ]]; then
        flags=$(<"$source_tree/.venv/cmake-args")
    fi
    if [[ -n $flags ]]; then
        run env CMAKE_ARGS="$flags" make -C "$program" install
    else
        run make -C "$program" install
    fi
    local python
    python=$(readlink -f "$program/.venv/bin/python" || true)
    if in_a_home "$python"; then
        die "the environment was made with $python, which the service may not see:" \
            "remove $prefix/.venv and run this again with PYTHON=/usr/bin/python3"
    fi
}

make_account() {
    [[ -z $files_only ]] || return 0
    if ! getent passwd "$account" >/dev/null; then
        step "Making the account $account"
        run useradd --system --user-group --home-dir /var/lib/llm-optimizer --no-create-home \
            --shell /usr/sbin/nologin --comment "llm-optimizer" "$account"
    fi
    # Some systems let only these groups use the cards.
    for group in video render; do
        if getent group "$group" >/dev/null; then run usermod --append --groups "$group" "$account"; fi
    done
    run install -d -m 0750 "$state" "$state/models"
    run chown "$account:" "$state" "$state/models"
}

write_config() {
    if [[ -e $config ]]; then
        say "$config is there already and stays as it is."
        return
    fi
    step "Writing $config"
    run install -D -m 0640 "$source_tree/docs/config.sample.toml" "$config"
    # The doctor and the downloads, which run outside of the unit, must mean the same folders.
    run sed -i -e 's|^# models_dir = ""$|models_dir = "/var/lib/llm-optimizer/models"|' \
        -e 's|^# cache_dir = ""$|cache_dir = "/var/cache/llm-optimizer"|' "$config"
    if [[ -z $files_only ]]; then run chgrp "$account" "$config"; fi
}

write_unit() {
    local name=$1 text
    text=$(printf '%s\n\n' "$mark"; sed "s|/opt/llm-optimizer/|$prefix/|g" "$here/$name")
    if [[ -f $units/$name && $(<"$units/$name") == "$text" ]]; then return; fi
    step "Writing $units/$name"
    if [[ -z $dry ]]; then printf '%s\n' "$text" >"$units/$name"; fi
}

write_units() {
    run install -d -m 0755 "$units"
    write_unit "$service"
    write_unit "$gpu"
    write_unit "$socket"
    local version
    version=$(systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 }')
    if ((${version%%[^0-9]*} + 0 >= 254)); then
        run install -D -m 0644 "$here/backoff.conf" "$units/$service.d/10-backoff.conf"
    fi
}

# Only where the settings are those that were written here: others know where their models are.
models_are_missing() {
    grep -qs '^models_dir = "/var/lib/llm-optimizer/models"' "$config" &&
        ! compgen -G "$state/models/*.gguf" >/dev/null
}

start_service() {
    [[ -z $files_only ]] || return 0
    run systemctl daemon-reload
    [[ -n $start ]] || return 0
    step "Starting"
    run systemctl enable "$service"
    if [[ -n $with_socket ]] && ! is_active "$socket"; then
        # The address is free for the socket only while the service does not hold it itself.
        run systemctl stop "$service"
        run systemctl enable --now "$socket"
    fi
    run systemctl restart "$service" ||
        die "it did not start: see journalctl -u $service -e, and $prefix/.venv/bin/llm-optimizer doctor"
}

tell_what_is_next() {
    say
    say "Settings    $config (then: systemctl reload llm-optimizer, or restart)"
    say "Models      /var/lib/llm-optimizer/models; to download the two of the settings:"
    say "            sudo -u $account $prefix/.venv/bin/llm-optimizer pull --config /etc/llm-optimizer.toml"
    say "Check       sudo -u $account $prefix/.venv/bin/llm-optimizer doctor --config /etc/llm-optimizer.toml"
    say "Log         journalctl -u llm-optimizer -f"
    say "Undo        $prefix/systemd/uninstall.sh"
}

need_root
umask 022
ollamas=() in_use=()
if [[ -z $files_only ]]; then look_at_predecessors; fi
copy_program
build_program
make_account
write_config
# Until it can start, what serves now goes on serving.
if [[ -z $files_only && -n $start ]] && models_are_missing; then
    step "There are no models yet: download them as below, then run this again. Nothing is started or stopped."
    tell_what_is_next
    exit
fi
put_predecessors_aside
write_units
start_service
tell_what_is_next
