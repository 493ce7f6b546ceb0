#!/bin/sh
# install.sh: puts kfarm on this machine as a service that starts with it. Works without a network.
#
#   ./install.sh [SERVER FLAG…]                       the binary beside this script, or ../build/kfarm
#   INSTALL_KFARM_BIN=FILE ./install.sh [FLAG…]       this binary
#   INSTALL_KFARM_URL=URL  ./install.sh [FLAG…]       downloads URL/kfarm and checks it against URL/sha256sums
#   curl -sfL URL/install.sh | INSTALL_KFARM_URL=URL sh -s - [FLAG…]
#
# The flags become those of `kfarm server`; settings may as well stand in /etc/kfarm/config.yaml. Every KFARM_* and proxy
# variable that is set now is kept in the service's environment file (0600). A second run changes what is different and
# restarts the service only then. It leaves <NAME>-uninstall.sh beside the binary.
#
#   INSTALL_KFARM_BIN_DIR       where the binary goes (/usr/local/bin; /opt/bin when that is read-only)
#   INSTALL_KFARM_NAME          name of the service (kfarm)
#   INSTALL_KFARM_SYSTEMD_DIR   where systemd's unit goes (/etc/systemd/system)
#   INSTALL_KFARM_SKIP_ENABLE   true: does not start with the machine, nor now
#   INSTALL_KFARM_SKIP_START    true: is not started now
#   INSTALL_KFARM_FORCE_RESTART true: restarted although nothing changed
#   INSTALL_KFARM_INIT          systemd, openrc or none, instead of what this machine runs
#   INSTALL_KFARM_ROOT          another root directory to install into (images, tests); implies SKIP_ENABLE
set -eu

say() { echo "kfarm: $*"; }
die() { echo "kfarm: $*" >&2; exit 1; }

root=${INSTALL_KFARM_ROOT:-}
name=${INSTALL_KFARM_NAME:-kfarm}
systemd_dir=${INSTALL_KFARM_SYSTEMD_DIR:-/etc/systemd/system}
skip_enable=${INSTALL_KFARM_SKIP_ENABLE:-false}
skip_start=${INSTALL_KFARM_SKIP_START:-false}
[ -z "$root" ] || skip_enable=true

case $name in *[!a-z0-9-]* | '') die "INSTALL_KFARM_NAME=$name: lower case letters, digits and dashes" ;; esac
[ "$(id -u)" = 0 ] || die "run as root"
case $(uname -m) in x86_64 | amd64) ;; *) die "there is no kfarm for $(uname -m): it runs on x86-64" ;; esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

# --- the binary ---

bin_dir=${INSTALL_KFARM_BIN_DIR:-}
if [ -z "$bin_dir" ]; then
    bin_dir=/usr/local/bin
    mkdir -p "$root$bin_dir" 2>/dev/null || true
    if ! touch "$root$bin_dir/.kfarm-write-test" 2>/dev/null; then
        bin_dir=/opt/bin
    fi
    rm -f "$root$bin_dir/.kfarm-write-test"
fi

fetch() { # URL FILE
    if command -v curl >/dev/null; then
        curl -sfL -o "$2" "$1"
    elif command -v wget >/dev/null; then
        wget -qO "$2" "$1"
    else
        die "neither curl nor wget is here: copy the binary and give INSTALL_KFARM_BIN=FILE"
    fi || die "cannot fetch $1"
}

here=$(dirname "$0")
if [ -n "${INSTALL_KFARM_BIN:-}" ]; then
    source=$INSTALL_KFARM_BIN
elif [ -n "${INSTALL_KFARM_URL:-}" ]; then
    source=$tmp/kfarm
    fetch "$INSTALL_KFARM_URL/kfarm" "$source"
    fetch "$INSTALL_KFARM_URL/sha256sums" "$tmp/sha256sums"
    wanted=$(awk '$2 == "kfarm" || $2 == "*kfarm" { print $1 }' "$tmp/sha256sums")
    [ -n "$wanted" ] || die "$INSTALL_KFARM_URL/sha256sums does not list kfarm"
    [ "$(sha256sum "$source" | cut -d' ' -f1)" = "$wanted" ] || die "the downloaded kfarm is not what sha256sums says; nothing was changed"
elif [ -f "$here/kfarm" ]; then
    source=$here/kfarm
elif [ -f "$here/../build/kfarm" ]; then
    source=$here/../build/kfarm
else
    die "no binary: put it beside this script, or give INSTALL_KFARM_BIN=FILE or INSTALL_KFARM_URL=URL"
fi
[ -f "$source" ] || die "there is no file $source"
cp "$source" "$tmp/kfarm.new"
chmod 755 "$tmp/kfarm.new"
version=$("$tmp/kfarm.new" version 2>/dev/null) || die "$source does not run on this machine"

# --- what the service is started with ---

args=
for a in "$@"; do
    case $a in
    *[!A-Za-z0-9_./:=,@+\ -]*) die "flag $a: units quote such characters in ways of their own; put it into /etc/kfarm/config.yaml" ;;
    *' '*) args="$args '$a'" ;;
    *) args="$args $a" ;;
    esac
done

env_names=$(env | sed -n 's/^\(KFARM_[A-Z0-9_]*\|[Hh][Tt][Tt][Pp]_[Pp][Rr][Oo][Xx][Yy]\|[Hh][Tt][Tt][Pp][Ss]_[Pp][Rr][Oo][Xx][Yy]\|[Nn][Oo]_[Pp][Rr][Oo][Xx][Yy]\)=.*/\1/p' | sort)
: >"$tmp/env"
for v in $env_names; do
    # systemd and shells read double quotes the same way.
    printf '%s="%s"\n' "$v" "$(printenv "$v" | sed 's/[\\"`$]/\\&/g')" >>"$tmp/env"
done

init=${INSTALL_KFARM_INIT:-}
if [ -z "$init" ]; then
    if [ -d /run/systemd/system ]; then
        init=systemd
    elif command -v rc-service >/dev/null; then
        init=openrc
    else
        init=none
    fi
fi

systemd_unit() {
    cat <<EOF
[Unit]
Description=kfarm: admin cluster, tenants and boot service of this host
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
EnvironmentFile=-$systemd_dir/$name.service.env
ExecStart=$bin_dir/kfarm server$args
# The supervisor stops its roles in order; what is left after that is killed.
KillMode=mixed
TimeoutStopSec=30
Restart=always
RestartSec=5s
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
EOF
}

openrc_unit() {
    cat <<EOF
#!/sbin/openrc-run
name=$name
description="kfarm: admin cluster, tenants and boot service of this host"
supervisor=supervise-daemon
command=$bin_dir/kfarm
command_args="server$args"
error_log=/var/log/$name.log
respawn_delay=5
respawn_max=0
retry="TERM/30/KILL/5"
rc_ulimit="-n 1048576 -u unlimited"

set -o allexport
[ ! -f /etc/kfarm/$name.env ] || . /etc/kfarm/$name.env
set +o allexport

depend() {
    after firewall
    want net
}
EOF
}

# --- put in place ---

changed=false
put() { # FILE MODE TARGET
    mkdir -p "$root$(dirname "$3")"
    if ! cmp -s "$1" "$root$3"; then
        cp "$1" "$root$3.new"
        chmod "$2" "$root$3.new"
        mv -f "$root$3.new" "$root$3"
        changed=true
        say "wrote $root$3"
    fi
}

put "$tmp/kfarm.new" 755 "$bin_dir/kfarm"
unit='' env_file=''
case $init in
systemd)
    unit=$systemd_dir/$name.service env_file=$systemd_dir/$name.service.env
    systemd_unit >"$tmp/unit"
    put "$tmp/unit" 644 "$unit"
    ;;
openrc)
    unit=/etc/init.d/$name env_file=/etc/kfarm/$name.env
    openrc_unit >"$tmp/unit"
    put "$tmp/unit" 755 "$unit"
    printf '/var/log/%s.log {\n    missingok\n    notifempty\n    copytruncate\n}\n' "$name" >"$tmp/logrotate"
    put "$tmp/logrotate" 644 "/etc/logrotate.d/$name"
    ;;
none) say "no systemd and no OpenRC here: start '$bin_dir/kfarm server$args' by what this machine uses" ;;
*) die "INSTALL_KFARM_INIT=$init: systemd, openrc or none" ;;
esac
[ -z "$env_file" ] || (umask 077 && put "$tmp/env" 600 "$env_file")

cat >"$tmp/uninstall" <<EOF
#!/bin/sh
# Removes the service $name and the binary. With --data also everything that the admin cluster and its tenants keep.
set -u
[ "\$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
if [ "$init" = systemd ] && command -v systemctl >/dev/null; then
    systemctl disable --now $name
elif [ "$init" = openrc ] && command -v rc-service >/dev/null; then
    rc-service $name stop
    rc-update delete $name default
fi
rm -f ${unit:-} ${env_file:-} /etc/logrotate.d/$name $bin_dir/kfarm $bin_dir/$name-uninstall.sh
[ "$init" != systemd ] || ! command -v systemctl >/dev/null || systemctl daemon-reload
if [ "\${1-}" = --data ]; then
    # One file system only: what is mounted below is somebody's data.
    find /var/lib/kfarm /run/kfarm -xdev -delete
    rm -rf /etc/kfarm
else
    echo "kept: /var/lib/kfarm and /etc/kfarm (remove them with $name-uninstall.sh --data)"
fi
EOF
put "$tmp/uninstall" 755 "$bin_dir/$name-uninstall.sh"
say "$version"

# --- start ---

[ "$skip_enable" != true ] || exit 0
[ "$init" != none ] || exit 0
restart=$changed
[ "${INSTALL_KFARM_FORCE_RESTART:-false}" != true ] || restart=true
if [ "$init" = systemd ]; then
    systemctl daemon-reload
    systemctl -q enable "$name"
    [ "$skip_start" != true ] || exit 0
    if [ $restart = true ]; then systemctl restart "$name"; else systemctl start "$name"; fi
else
    rc-update -q add "$name" default
    [ "$skip_start" != true ] || exit 0
    if [ $restart = true ]; then rc-service "$name" restart; else rc-service -I "$name" start; fi
fi
say "started; kubectl --kubeconfig /etc/kfarm/admin.kubeconfig get nodes"
