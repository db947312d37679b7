#!/bin/sh
# Installs edgekit from the folder of this script, without network. Whatever ends it, and be it a power cut, the device runs the old
# release or the new one: a release is built in a folder of its own, and one symbolic link says which is in use.
#
#   ROOT/opt/edgekit/releases/ID/   a Python environment, its bundle, its systemd units; .complete when it is whole
#   ROOT/opt/edgekit/current        symbolic link to the release in use
#   ROOT/opt/edgekit/previous       symbolic link to the one before
set -eu
LC_ALL=C
PIP_CONFIG_FILE=/dev/null
PYTHONDONTWRITEBYTECODE=
export LC_ALL PIP_CONFIG_FILE PYTHONDONTWRITEBYTECODE
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV || true
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
root=
python=
action=install
start=yes
building=
before=

fail() {
    echo "error: $1" >&2
    exit 1
}

usage() {
    echo "usage: $0 [--root DIR] [--python PROGRAM] [--no-start] [--rollback]"
    echo "  --root DIR        install under DIR in the place of /, for a trial"
    echo "  --python PROGRAM  the Python to use, else the python3 of the pack's version"
    echo "  --no-start        leave the service as it is"
    echo "  --rollback        go back to the release of before"
}

while [ $# -gt 0 ]; do
    case $1 in
        --root) [ $# -ge 2 ] || { usage >&2; exit 2; }; root=$2; shift ;;
        --python) [ $# -ge 2 ] || { usage >&2; exit 2; }; python=$2; shift ;;
        --no-start) start=no ;;
        --rollback) action=rollback ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

if [ -n "$root" ]; then
    mkdir -p -- "$root" 2>/dev/null || fail "$root: cannot be made; name another --root"
    root=$(CDPATH='' cd -- "$root" && pwd -P)
    [ "$root" != / ] || root=
fi
base=$root/opt/edgekit

# Read before anything else: what this pack is for.
[ -r "$here/pack.env" ] || fail "$here: pack.env is missing; unpack the whole archive and run its install.sh"
. "$here/pack.env"

check_pack() {
    (cd "$here" && sha256sum --check --quiet --strict SHA256SUMS >/dev/null 2>&1) ||
        fail "$here: a file is not the one of SHA256SUMS; copy the pack again"
}

check_device() {
    if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
        fail "only root can install: sudo $0"
    fi
    if [ -z "$python" ]; then
        python=$(command -v "python$PACK_PYTHON" || command -v python3) ||
            fail "there is no python3 here; this pack needs Python $PACK_PYTHON: apt-get install python3"
    fi
    # -I: without what lies in the folder where this is started, which others may write.
    found=$("$python" -Ic 'import platform, struct, sys; print(struct.calcsize("P") * 8, platform.machine(), "%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "$python does not run; name another with --python"
    bits=${found%% *}
    version=${found##* }
    machine=${found#* }
    machine=${machine%% *}
    [ "$bits" = 64 ] ||
        fail "this system is $bits-bit (its Python, at least); install the 64-bit system of this device: there are no 32-bit wheels"
    [ "$machine" = "$PACK_MACHINE" ] ||
        fail "this pack is for $PACK_TARGET ($PACK_MACHINE), this machine is $machine; pack again with another --target"
    [ "$version" = "$PACK_PYTHON" ] ||
        fail "this pack is for Python $PACK_PYTHON, $python is $version; pack again with --python $version, or name another with --python"
    "$python" -Ic 'import venv' 2>/dev/null ||
        fail "$python has no venv module; apt-get install python3 (python3-minimal is not enough)"
}

check_space() {
    mkdir -p -- "$base/releases" 2>/dev/null || fail "$base: cannot be made; use sudo, or name another --root"
    [ -w "$base/releases" ] || fail "$base: cannot be written; use sudo, or name another --root"
    [ -L "$base/current" ] || [ ! -e "$base/current" ] || fail "$base/current: is no symbolic link; move it away"
    free=$(df -Pk -- "$base" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$PACK_NEEDED_KIB" ] ||
        fail "$base: $((free / 1024)) MB free, $((PACK_NEEDED_KIB / 1024)) MB are needed; free the disk"
}

# One installation at a time; a child that outlives a killed one holds the lock too.
lock() {
    exec 9>"$base/.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        fail "$base: another installation is running; wait for it"
    fi
}

to_disk() {
    sync -f "$1" 2>/dev/null || sync
}

# point LINK TARGET: in one step, on the disk before anything after it.
point() {
    rm -f -- "$1.new"
    ln -s -- "$2" "$1.new"
    mv -fT -- "$1.new" "$1"
    to_disk "$(dirname -- "$1")"
}

release_of() {
    readlink -- "$base/$1" 2>/dev/null || true
}

clean_up() {
    status=$?
    if [ -n "$building" ] && [ "$status" != 0 ]; then
        rm -rf -- "$building"
    fi
    exit "$status"
}

build() {
    if [ -e "$release/.complete" ]; then
        echo "$release is whole already"
    else
        rm -rf -- "$release"
        building=$release
        echo "making $release"
        "$python" -Im venv --without-pip "$release" || fail "$release: no environment can be made with $python"
        echo "installing $(find "$here/wheels" -name '*.whl' | wc -l) wheels"
        said=$("$release/bin/python" "$(echo "$here"/pip-*.whl)/pip" --isolated --disable-pip-version-check install --quiet \
            --no-cache-dir --no-input --no-index --no-deps --require-hashes --find-links "$here/wheels" \
            -r "$here/requirements.txt" 2>&1) || explain
        cp -R -- "$here/systemd" "$release/systemd"
    fi
    "$release/bin/edgekit" install "$here/bundle" --to "$release" --no-restart || fail "the bundle was not installed; $(kept)"
    to_disk "$release"
    : >"$release/.complete"
    to_disk "$release"
    building=
}

# What pip said, in one line.
explain() {
    case $said in *"No space left"*) fail "$base: the disk is full; free it; $(kept)" ;; esac
    fail "$release: $(printf '%s\n' "$said" | grep -i 'error' | tail -n 1 | sed 's/^ERROR: //'); $(kept)"
}

kept() {
    if [ -n "$before" ]; then echo "$before stays in use"; else echo "nothing is in use"; fi
}

# What belongs to the whole system, each file whole: the user, the units of the release in use, the command.
settle() {
    [ -n "$root" ] || make_user
    mkdir -p -- "$root/etc/systemd/system" "$root/etc/edgekit" "$root/usr/local/bin"
    for file in "$base/current/systemd"/*; do
        [ -f "$file" ] || continue
        name=$(basename -- "$file")
        case $name in
            *.service | *.socket | *.timer | *.path | *.target) place=$root/etc/systemd/system/$name ;;
            *.rules) place=$root/etc/udev/rules.d/$name ;;
            *.env)
                place=$root/etc/edgekit/$name
                [ ! -e "$place" ] || continue # it is the technician's
                ;;
            *) continue ;;
        esac
        mkdir -p -- "$(dirname -- "$place")"
        cp -- "$file" "$place.new"
        case $name in *.env) chmod 600 "$place.new" ;; esac # it may come to hold a password
        mv -fT -- "$place.new" "$place"
    done
    point "$root/usr/local/bin/edgekit" "$base/current/bin/edgekit"
    to_disk "$root/etc"
}

make_user() {
    if id edgekit >/dev/null 2>&1; then
        return
    fi
    if ! command -v useradd >/dev/null; then
        echo "note: there is no useradd here; make a system user edgekit in the group video"
        return
    fi
    groups=
    for group in video render; do
        if getent group "$group" >/dev/null 2>&1; then groups=${groups:+$groups,}$group; fi
    done
    useradd --system --user-group --no-create-home --home-dir /var/lib/edgekit --shell /usr/sbin/nologin \
        ${groups:+--groups "$groups"} edgekit || fail "the user edgekit cannot be made"
}

# Returns 1 where the service does not start.
run_service() {
    if [ "$start" = no ]; then
        echo "the service was left as it is"
    elif [ -n "$root" ] || [ ! -d /run/systemd/system ]; then
        echo "systemd does not run here: the units are in place, nothing was started"
    elif [ ! -e /etc/systemd/system/edgekit.service ]; then
        echo "this release has no service"
    else
        systemctl daemon-reload
        systemctl --quiet enable edgekit.service || return 1
        systemctl restart edgekit.service || return 1
        if systemctl --quiet is-active edgekit.service; then
            echo "edgekit.service runs"
        else
            echo "edgekit.service waits: name the source in /etc/edgekit/edgekit.env, then systemctl restart edgekit"
        fi
    fi
}

# use RELEASE, back to the one of before where the service does not start with it.
use() {
    older=$(release_of previous)
    if [ "$before" != "$1" ]; then
        [ -z "$before" ] || point "$base/previous" "$before"
        point "$base/current" "$1"
    fi
    settle
    if run_service; then
        return
    fi
    if [ -z "$before" ] || [ "$before" = "$1" ]; then
        fail "edgekit.service does not start; journalctl -u edgekit says why"
    fi
    point "$base/current" "$before"
    [ -z "$older" ] || point "$base/previous" "$older"
    settle
    run_service || true
    fail "edgekit.service does not start with $1, $before is in use again; journalctl -u edgekit says why"
}

# Releases that are neither in use nor the one before.
forget() {
    for old in "$base/releases"/*; do
        case releases/$(basename -- "$old") in
            "$(release_of current)" | "$(release_of previous)") ;;
            *) rm -rf -- "$old" ;;
        esac
    done
}

stopped() {
    before=$(release_of current)
    echo "error: interrupted; $(kept)" >&2
    exit "$1"
}

trap clean_up EXIT
trap 'stopped 130' INT
trap 'stopped 143' TERM
[ "$action" = rollback ] || check_pack
check_device
if [ "$action" = rollback ]; then
    before=$(release_of current)
    target=$(release_of previous)
    if [ -z "$target" ] || [ "$target" = "$before" ] || [ ! -e "$base/$target/.complete" ]; then
        fail "$base: there is no other release to go back to"
    fi
    lock
    use "$target"
else
    check_space
    lock
    before=$(release_of current)
    id=$PACK_VERSION-$(sha256sum "$here/SHA256SUMS" | cut -c 1-12)
    release=$base/releases/$id
    build
    use "releases/$id"
    forget
fi
echo "in use: $base/$(release_of current)"
