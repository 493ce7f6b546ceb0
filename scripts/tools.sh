#!/bin/bash
# Fetches what the tests and benchmarks compare kfarm with, once per machine, without installing it.
#
#   scripts/tools.sh NAME…     makes the tools that are missing; prints the folder of each on stdout
#   KFARM_CACHE=dir            where results live (default ~/.cache/kfarm); NAME is a folder there
#   KFARM_DEB_MIRROR=url       mirror to use (default: that of the running system's own apt lists)
#
#   etcd34, etcd35             usr/bin/{etcd,etcdctl} of that version (3.5: etcdutl too)
#   etcd35new                  the last 3.5, whose users may less; from Debian's next release, until that has a 3.6
#
# Packages come from the suite named here by an apt with lists of its own, which checks the archive's
# signatures. A result is made in a temporary folder and renamed, under a lock: it is whole or absent.

set -euo pipefail
export LC_ALL=C

cache=${KFARM_CACHE:-${HOME:?}/.cache/kfarm}
say() { echo "tools: $*" >&2; }
die() { say "$*"; exit 1; }

. "$(dirname "$0")/apt.sh"

# unpack_packages SUITE DIR PACKAGE…: their files, below DIR
unpack_packages() {
    local suite=$1 dir=$2 deb
    shift 2
    apt_suite "$suite"
    mkdir -p "$tmp/debs" "$dir"
    (cd "$tmp/debs" && apt-get "${apt[@]}" download "$@" >&2) || die "could not be fetched from $suite: $*"
    for deb in "$tmp"/debs/*.deb; do
        dpkg-deb -x "$deb" "$dir"
    done
    rm -rf "$tmp/debs"
}

want_version() { # DIR PREFIX
    local is
    is=$("$1/usr/bin/etcd" --version)
    [[ $is == "etcd Version: $2."* ]] || die "wanted etcd $2, the suite has: ${is%%$'\n'*}"
}

make_etcd34() {
    unpack_packages bookworm "$1" etcd-server etcd-client
    want_version "$1" 3.4
}

make_etcd35() {
    unpack_packages trixie "$1" etcd-server etcd-client
    want_version "$1" 3.5
}

make_etcd35new() {
    unpack_packages forky "$1" etcd-server etcd-client
    want_version "$1" 3.5
}

[ $# -gt 0 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$cache"
tmp=
finish() { [ -z "$tmp" ] || rm -rf "$tmp"; }
trap finish EXIT
for name in "$@"; do
    declare -F "make_$name" >/dev/null || die "there is no tool called $name"
    [ -d "$cache/$name" ] || (
        flock 9
        [ ! -d "$cache/$name" ] || exit 0
        started=$SECONDS
        tmp=$(mktemp -d "$cache/.tool.XXXXXX")
        trap finish EXIT
        "make_$name" "$tmp/result"
        mv -T "$tmp/result" "$cache/$name"
        say "$name is ready after $((SECONDS - started)) s: $cache/$name"
    ) 9>"$cache/.tools.lock"
    echo "$cache/$name"
done
