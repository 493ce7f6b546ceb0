#!/bin/bash
# Fetches what the tests and benchmarks compare kfarm with, once per machine, without installing it.
#
#   scripts/tools.sh NAME…     makes the tools that are missing; prints the folder of each on stdout
#   KFARM_CACHE=dir            where results live (default ~/.cache/kfarm); NAME is a folder there
#   KFARM_DEB_MIRROR=url       mirror to use (default: that of the running system's own apt lists)
#
#   etcd34, etcd35             usr/bin/{etcd,etcdctl} of that version (3.5: etcdutl too)
#   etcd35new                  the last 3.5, whose users may less; from Debian's next release, until that has a 3.6
#   python-etcd3               the source of that library, for its tests
#   etcd-runner                etcd-runner, built from Debian's golang-etcd-server-dev
#   etcd3-npm                  node_modules with the JavaScript client
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

# The library's own tests, from its source package.
make_python-etcd3() {
    local work=$tmp/source
    apt_suite bookworm
    mkdir -p "$work" "$1"
    (cd "$work" && apt-get "${apt[@]}" source --tar-only --download-only python-etcd3 >&2) || die "no source of python-etcd3"
    tar -xf "$work"/python-etcd3_*.orig.tar.* -C "$1" --strip-components=1 --no-same-owner
    [ -f "$1/tests/test_etcd3.py" ] || die "python-etcd3 has no tests"
}

# etcd's own users of locks, elections, watches and leases. Debian has its source only, as Go library; compiler and
# libraries are unpacked for the build and thrown away.
make_etcd-runner() {
    local go=$tmp/go packages
    apt_suite bookworm
    : >"$tmp/no-packages"
    packages=$(apt-get "${apt[@]}" -o "Dir::State::status=$tmp/no-packages" -s install --no-install-recommends \
        golang-etcd-server-dev golang-go | awk '$1 == "Inst" && $2 ~ /^golang-/ { print $2 }')
    # shellcheck disable=SC2086
    unpack_packages bookworm "$go" $packages
    mkdir -p "$1"
    env -i HOME="$tmp" PATH="$PATH" GOROOT="$(echo "$go"/usr/lib/go-*)" GOPATH="$go/usr/share/gocode" GO111MODULE=off \
        GOCACHE="$tmp/gocache" GOFLAGS=-p=2 CGO_ENABLED=0 "$(echo "$go"/usr/lib/go-*/bin/go)" build -o "$1/etcd-runner" \
        go.etcd.io/etcd/functional/cmd/etcd-runner >&2 || die "etcd-runner could not be built"
}

# The JavaScript client, by its registry.
make_etcd3-npm() {
    mkdir -p "$1"
    (cd "$1" && npm init -y && npm install --silent --no-audit --no-fund etcd3@1.1.2) >&2 || die "no etcd3 from npm"
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
