#!/bin/bash
# Fetches and builds upstream Kubernetes for the tests, once per machine (about 15 CPU minutes).
#
#   scripts/upstream.sh          build what is missing; prints the folder with the binaries
#   scripts/upstream.sh --where  prints the folder; status 1 when it is not there (nothing is built)
#   KFARM_UPSTREAM=dir           use the binaries in this folder instead
#   KFARM_CACHE=dir              where results live (default ~/.cache/kfarm)
#   KFARM_DEB_MIRROR=url         mirror to use (default: that of the running system's own apt lists)
#
# Debian 12 is the last release whose source package has the servers. Compiler and sources come from
# there by apt, which checks the signatures. Sources and Go's build cache stay in a folder next to the
# result until it is whole, so that a run that was stopped goes on where it was.

set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
version=1.20.2 suite=bookworm
commit=faecb196815e248d3ecfb03c680a4507229c2a56 # of tag v1.20.2: what the binaries tell of themselves
programs=(kube-apiserver kube-controller-manager kube-scheduler kubemark kubectl e2e.test ginkgo)
cache=${KFARM_CACHE:-${HOME:?}/.cache/kfarm}
result=$cache/upstream-$version
work=$cache/upstream-$version.build

say() { echo "upstream: $*" >&2; }
die() { say "$*"; exit 1; }

[ -z "${KFARM_UPSTREAM:-}" ] || { echo "$KFARM_UPSTREAM"; exit 0; }
case ${1:-} in
--where) [ -d "$result/bin" ] && echo "$result/bin"; exit ;;
"") ;;
*) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
[ -d "$result/bin" ] && { echo "$result/bin"; exit 0; }

for tool in apt-get dpkg-source dpkg-deb rsync jq make flock; do
    command -v $tool >/dev/null || die "$tool is missing; run scripts/setup.sh upstream"
done
mkdir -p "$work"
exec 9>"$work/.lock"
flock -n 9 || { say "another run is building, waiting for it"; flock 9; }
[ -d "$result/bin" ] && { echo "$result/bin"; exit 0; }
started=$SECONDS

tmp=$work
. "$here/apt.sh"

# --- fetch ---------------------------------------------------------------------------------------

# The compiler is unpacked, not installed: newer systems have no such package.
fetch_go() {
    local deb
    rm -rf "$work/go"
    mkdir -p "$work/go" && cd "$work/go"
    apt-get "${apt[@]}" download golang-1.19-go golang-1.19-src >&2
    for deb in *.deb; do
        dpkg-deb -x "$deb" .
    done
    rm ./*.deb
    touch .whole
}

# Since Go 1.18 the runtime fills an iterator over a map that the caller provides; the reflect2 of
# these sources expects to be given one. It compiles all the same (a linkname has no type check)
# and the API server then faults when the first CRD is created.
mend_reflect2() {
    local dir=vendor/github.com/modern-go/reflect2
    sed -i -e '/^func mapiterinit(/s/ m unsafe.Pointer) \*hiter$/ m unsafe.Pointer, it *hiter)/' \
        -e '/^type hiter struct/,/^}/c\
type hiter struct {\
	key, value unsafe.Pointer\
	places     [6]unsafe.Pointer // the sizes and pointers of the runtime'\''s hiter\
	counts     [4]uintptr\
}' $dir/unsafe_link.go
    sed -i -e '/) UnsafeIterate(obj unsafe.Pointer)/a\
	it := new(hiter)\
	mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), it)' \
        -e 's/hiter: *mapiterinit(.*),$/hiter: it,/' $dir/unsafe_map.go
    [ "$(grep -c '\bit\b' $dir/unsafe_map.go)" -ge 3 ] && grep -q 'it \*hiter)$' $dir/unsafe_link.go ||
        die "reflect2 is not as expected"
}

fetch_sources() {
    local dsc
    rm -rf "$work/src" "$work/source"
    mkdir -p "$work/source" && cd "$work/source"
    apt-get "${apt[@]}" source --download-only kubernetes >&2
    dsc=$(echo kubernetes_*really"$version"-*.dsc)
    [ -f "$dsc" ] || die "$suite has another version than $version: $(ls)"
    dpkg-source --no-check -x "$dsc" "$work/src" >&2 # apt has checked it against the signed index
    rm -rf "$work/source"
    cd "$work/src"
    mkdir -p .go/src/k8s.io && ln -s ../../.. .go/src/k8s.io/kubernetes # the generators want a GOPATH
    mend_reflect2
    touch .whole
}

if [ ! -e "$work/go/.whole" ] || [ ! -e "$work/src/.whole" ]; then
    rm -rf "$work/apt-$suite" # of a run that was stopped
    apt_suite $suite
    [ -e "$work/go/.whole" ] || { say "fetching the compiler"; (fetch_go); }
    [ -e "$work/src/.whole" ] || { say "fetching the sources"; (fetch_sources); }
fi

# --- build ---------------------------------------------------------------------------------------

cd "$work/src"
mkdir -p "$work/tmp"
export GOROOT=$work/go/usr/lib/go-1.19 GOPATH=$PWD/.go GOTMPDIR=$work/tmp CGO_ENABLED=0 GOPROXY=off
export GOSUMDB=off GOFLAGS=-p=2 PATH=$work/go/usr/lib/go-1.19/bin:$PATH
export KUBE_STATIC_OVERRIDES=kubemark KUBE_GIT_TREE_STATE=clean KUBE_GIT_VERSION=v$version
export KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_COMMIT=$commit
unset MAKEFLAGS MAKELEVEL # of the make that calls

for what in "cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kubectl cmd/kubemark" \
    "vendor/github.com/onsi/ginkgo/ginkgo test/e2e/e2e.test"; do
    say "building $what"
    make GOFLAGS="$GOFLAGS" WHAT="$what" >>"$work/build.log" 2>&1 ||
        { tail -20 "$work/build.log" >&2; die "building failed, see $work/build.log"; }
done

mkdir -p "$work/result/bin"
for program in "${programs[@]}"; do
    found=$(find _output -type f -name "$program" -perm -u+x -print -quit)
    [ -n "$found" ] || die "$program was not built"
    cp "$found" "$work/result/bin/"
done
mv -T "$work/result" "$result"
cd /
chmod -R u+w "$work" && rm -rf "$work"
say "ready in $((SECONDS - started)) s: $result/bin"
echo "$result/bin"
