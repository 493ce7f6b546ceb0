#!/bin/bash
# Fetches and builds the pinned third-party libraries (deps.lock), once per machine.
#
#   scripts/deps.sh            build what is missing; prints the result's folder on stdout
#   DEPS_DIR=dir               take the archives from this folder instead of the Debian mirror
#   KFARM_CACHE=dir            where results live (default ~/.cache/kfarm)
#   KFARM_DEB_MIRROR=url       mirror to use (default: that of the running system's own apt lists)
#
# Result: $KFARM_CACHE/deps/<key>/{musl,glibc}/{include,lib} and kernel/ (the kernel's headers for
# musl), where <key> is a hash of everything that decides the result. It is built in a temporary
# folder and renamed, under a lock, so that it is whole or absent and several runs may overlap.

set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=${KFARM_CACHE:-${HOME:?}/.cache/kfarm}
lock_file=$here/deps.lock

say() { echo "deps: $*" >&2; }
die() { say "$*"; exit 1; }

key=$(cat "$lock_file" "$here/deps.sh" "$here/deps.mk" "$here"/deps/* | sha256sum)
key=${key:0:16}
result=$cache/deps/$key
[ -d "$result" ] && { echo "$result"; exit 0; }

for tool in gcc musl-gcc make ar tclsh tar bzip2 xz flock; do
    command -v $tool >/dev/null || die "$tool is missing; run scripts/setup.sh build"
done

mkdir -p "$cache/deps" "$cache/src"
exec 9>"$cache/deps/.lock"
flock -n 9 || { say "another run is building, waiting for it"; flock 9; }
[ -d "$result" ] && { echo "$result"; exit 0; }

started=$SECONDS
rm -rf "$cache"/deps/.build.* # left by a run that was killed: the lock is ours
tmp=$(mktemp -d "$cache/deps/.build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# --- fetch ---------------------------------------------------------------------------------------

suite=$(awk '$1 == "SUITE" { print $2 }' "$lock_file")

has_hash() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$2  -" ]; }

# The mirror of the running system; apt itself reads both forms of its lists.
system_mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk -v c="$codename" '$2 == c && $3 == "main" && !n++ { print $1 }'
}

# apt with lists, cache and state of its own: the system's lists are neither read nor written.
apt_prepare() {
    local mirror keyring
    command -v apt-get >/dev/null || die "no apt-get here: put the archives in a folder, set DEPS_DIR"
    mirror=${KFARM_DEB_MIRROR:-$(system_mirror)}
    [ -n "$mirror" ] || die "no Debian mirror found in the apt lists: set KFARM_DEB_MIRROR or DEPS_DIR"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -f "$keyring" ] || die "no keyring at $keyring (package debian-archive-keyring)"
    mkdir -p "$tmp/apt/lists/partial" "$tmp/apt/cache"
    echo "deb-src [signed-by=$keyring] $mirror $suite main" >"$tmp/apt/sources.list"
    apt=(-qq -o "Dir::Etc::SourceList=$tmp/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$tmp/apt/lists" -o "Dir::Cache=$tmp/apt/cache"
        -o APT::Sandbox::User=root -o Acquire::Retries=3)
    mirror=${mirror%/}
    pool=$mirror/pool/main
    say "reading the index of $suite"
    apt-get "${apt[@]}" -o APT::Update::Error-Mode=any update >&2 ||
        die "the index of $suite could not be fetched from the mirror"
}

fetch() {
    local name=$1 version=$2 file=$3 hash=$4 listed uri first
    if [ -n "${DEPS_DIR:-}" ]; then
        [ -f "$DEPS_DIR/$file" ] || die "$DEPS_DIR/$file is missing"
        has_hash "$DEPS_DIR/$file" "$hash" || die "$DEPS_DIR/$file: SHA-256 is not the pinned one"
        cp "$DEPS_DIR/$file" "$cache/src/$file"
        return
    fi
    [ -n "${pool:-}" ] || apt_prepare
    listed=$(apt-get "${apt[@]}" source --print-uris "$name=$version" 2>/dev/null |
        awk -v f="$file" '$2 == f { gsub("\047", "", $1); print $1, $4 }') || true
    if [ -n "$listed" ]; then
        [ "${listed#* }" = "SHA256:$hash" ] || die "$file: the signed index says ${listed#* }, pinned is $hash"
        uri=${listed% *}
    else
        say "$name $version is no longer in $suite, trying the pool"
        first=${name:0:1}
        [ "${name:0:3}" = lib ] && first=${name:0:4}
        uri=$pool/$first/$name/$file
    fi
    say "fetching $file"
    /usr/lib/apt/apt-helper "${apt[@]}" download-file "$uri" "$tmp/$file" "SHA256:$hash" >&2 ||
        die "$file could not be fetched"
    has_hash "$tmp/$file" "$hash" || die "$file: SHA-256 is not the pinned one"
    mv "$tmp/$file" "$cache/src/$file"
}

archives=$(grep -Ev '^(#|SUITE|$)' "$lock_file")
pool=
while read -r name version file hash; do
    has_hash "$cache/src/$file" "$hash" || fetch "$name" "$version" "$file" "$hash"
done <<<"$archives"

unpacking=()
while read -r name version file hash; do
    mkdir -p "$tmp/src/$name"
    tar -xf "$cache/src/$file" -C "$tmp/src/$name" --strip-components=1 --no-same-owner &
    unpacking+=($!)
done <<<"$archives"
for pid in "${unpacking[@]}"; do
    wait "$pid" || die "an archive could not be unpacked"
done
say "unpacked $(ls "$tmp/src" | wc -l) archives"

# --- prepare -------------------------------------------------------------------------------------

src=$tmp/src
cp "$here/deps/mbedtls_config.h" "$src/mbedtls/include/mbedtls/mbedtls_config.h"

cp "$here/deps/ecp_fast.c" "$src/rust-ring/"
mv "$src/rust-ring" "$src/ring"

nghttp2_version=$(sed -n 's/^nghttp2 *\([0-9.]*\)-.*/\1/p' "$lock_file")
IFS=. read -r major minor patch <<<"$nghttp2_version"
sed -e "s/@PACKAGE_VERSION@/$nghttp2_version/" \
    -e "s/@PACKAGE_VERSION_NUM@/$(printf '0x%02x%02x%02x' "$major" "$minor" "$patch")/" \
    "$src/nghttp2/lib/includes/nghttp2/nghttp2ver.h.in" >"$src/nghttp2/lib/includes/nghttp2/nghttp2ver.h"

# The amalgamation is generated by SQLite's own makefile (lemon, tclsh).
amalgamate() {
    mkdir "$src/sqlite3/amalgamation" && cd "$src/sqlite3/amalgamation"
    ../configure --disable-shared --disable-tcl --disable-readline --disable-load-extension
    make sqlite3.c sqlite3.h
}
say "generating the SQLite amalgamation"
(amalgamate) >"$tmp/sqlite3.log" 2>&1 || { tail -20 "$tmp/sqlite3.log" >&2; die "SQLite: amalgamation failed"; }

# musl-gcc sees no kernel headers; a folder with only these keeps the C library's ones out.
out=$tmp/out
mkdir -p "$out/kernel"
arch=$(gcc -print-multiarch)
for d in linux asm-generic asm; do
    for base in /usr/include "/usr/include/$arch"; do
        [ -d "$base/$d" ] && ln -s "$base/$d" "$out/kernel/$d" && break
    done
done
[ -e "$out/kernel/asm" ] || die "no kernel headers (package linux-libc-dev)"

# --- build ---------------------------------------------------------------------------------------

for variant in musl glibc; do
    say "compiling for $variant"
    MAKEFLAGS= make -s -C "$src" -j"$(nproc)" -f "$here/deps.mk" VARIANT=$variant \
        OUT=../out/$variant TMP=../obj-$variant >&2 || die "$variant: compiling failed"
done

mv -T "$out" "$result"
say "ready in $((SECONDS - started)) s: $result"
echo "$result"
