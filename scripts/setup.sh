#!/bin/bash
# setup.sh build|test|demo|bench|upstream: installs the Debian packages that the purpose needs.
# Does nothing, quickly, when all are there. `package?command`: only where the command is missing;
# it may come from elsewhere than Debian, whose package would then be in conflict with it.
# What must not be installed (servers, newer versions) scripts/tools.sh puts into the cache.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { echo "setup: $*" >&2; }

# Compiling kfarm and its libraries.
build="gcc libc6-dev linux-libc-dev make binutils musl-tools python3 tcl xz-utils bzip2
    ca-certificates debian-archive-keyring util-linux"
# What a demonstration uses: clients, virtual machines, network namespaces, node images.
demo="$build iproute2 iputils-ping nftables procps curl openssl jq etcd-client kubernetes-client?kubectl
    qemu-system-x86 qemu-utils ovmf seabios ipxe-qemu ipxe mmdebstrap squashfs-tools cpio zstd kmod
    busybox-static"
# The peers and tools of the test suite.
test="$demo ccache clang clang-format bats nghttp2-client udhcpc isc-dhcp-client isc-dhcp-relay tftp-hpa atftp netbase
    python3-kubernetes python3-yaml python3-etcd3 python3-grpcio
    python3-pytest python3-hypothesis python3-mock python3-six python3-tenacity grub-efi-amd64-bin socat tcpdump strace nodejs?node npm?npm"
# What the benchmarks compare with.
bench="$demo nghttp2-client wrk atftp netbase kea-admin etcd-server dnsmasq-base"
# Building upstream Kubernetes for the tests (scripts/upstream.sh).
upstream="$test dpkg-dev rsync patch"

case ${1:-} in
build) packages=$build tools= ;;
demo) packages=$demo tools= ;;
test) packages=$test tools="etcd34 etcd35 python-etcd3 etcd3-npm" wishes="etcd35new etcd-runner" ;;
bench) packages=$bench tools=etcd35 ;;
upstream) packages=$upstream tools="etcd34 etcd35" ;;
*)
    echo "usage: setup.sh build|test|demo|bench|upstream" >&2
    exit 2
    ;;
esac

command -v apt-get >/dev/null || { say "no apt-get here; wanted: $packages"; exit 1; }

missing() {
    local present entry
    present=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
    for entry in $packages; do
        [ "$entry" = "${entry%\?*}" ] || ! command -v "${entry#*\?}" >/dev/null || continue
        echo "${entry%\?*}"
    done | sort -u | comm -23 - <(sort -u <<<"$present")
}

fetch_tools() {
    # shellcheck disable=SC2086
    [ -z "$tools" ] || "$(dirname "$0")/tools.sh" $tools >/dev/null
    for wish in ${wishes:-}; do # tests skip what they cannot have of these
        "$(dirname "$0")/tools.sh" "$wish" >/dev/null || say "without $wish"
    done
}

wanted=$(missing)
wanted=$(xargs <<<"$wanted")
[ -n "$wanted" ] || { fetch_tools; exit 0; }

[ "$(id -u)" = 0 ] || { say "run as root, or install by hand: $wanted"; exit 1; }
say "installing: $wanted"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=(apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)

# Daemons that come along as packages must not start.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f "$log" /usr/sbin/policy-rc.d' EXIT
fi

# shellcheck disable=SC2086
{ "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends $wanted; } >"$log" 2>&1 || {
    tail -20 "$log" >&2
    say "installing failed"
    exit 1
}
fetch_tools
say "done"
