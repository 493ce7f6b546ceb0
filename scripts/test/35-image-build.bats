#!/usr/bin/env bats
# `kfarm image build`: what comes out, that it comes out the same again, and that errors say what to do.
load common.bash

kfarm=$BATS_TEST_DIRNAME/../../build/kfarm

setup_file() {
    export IMAGES=$(mktemp -d)
    "$BATS_TEST_DIRNAME/../../build/kfarm" image build --data-dir "$IMAGES/a" --zstd-level 1 >"$IMAGES/out" 2>&1 || {
        cat "$IMAGES/out"
        return 1
    }
}
teardown_file() { rm -rf "$IMAGES"; }

image() { echo "$IMAGES/a/images/default"; }

@test "the manifest tells sizes and digests of what is there" {
    for part in kernel initrd root; do
        file=$(image)/$(jq -r ".$part.file" "$(image)/manifest.json")
        [ "$(stat -c %s "$file")" = "$(jq -r ".$part.size" "$(image)/manifest.json")" ]
        [ "sha256:$(sha256sum <"$file" | cut -d' ' -f1)" = "$(jq -r ".$part.digest" "$(image)/manifest.json")" ]
    done
    [ "$(jq -r .root.size "$(image)/manifest.json")" -lt 110000000 ]
}

@test "a second build has the same digests" {
    "$kfarm" image build --data-dir "$IMAGES/b" --zstd-level 1
    cmp "$IMAGES/a/images/default/manifest.json" "$IMAGES/b/images/default/manifest.json"
}

@test "the initrd is a cpio with kfarm as /init and drivers" {
    zstd -dc "$(image)/initrd" >"$IMAGES/initrd.cpio"
    cpio -t --quiet <"$IMAGES/initrd.cpio" >"$IMAGES/list"
    grep -x init "$IMAGES/list"
    grep -q /virtio_net.ko "$IMAGES/list"
    grep -q /squashfs.ko "$IMAGES/list"
    cpio -i --quiet --to-stdout init <"$IMAGES/initrd.cpio" | cmp - "$kfarm"
}

@test "modules.dep of the initrd lists what is loaded first last" {
    zstd -dc "$(image)/initrd" | cpio -i --quiet --to-stdout 'lib/modules/*/modules.dep' >"$IMAGES/dep"
    line=$(grep '^kernel/drivers/virtio/virtio.ko:' "$IMAGES/dep")
    [[ $line == *virtio_ring.ko* ]]
    # every dependency stands after those that need it: loading from the right end works
    awk '{ sub(":", "", $1); has[$1] = 1; for (i = 2; i <= NF; i++) if ($i == $1) exit 1 }' "$IMAGES/dep"
}

@test "the root is a zstd squashfs with the runtime and its libraries, and nothing to read" {
    unsquashfs -s "$(image)/root.squashfs" | grep -qi zstd
    unsquashfs -ll "$(image)/root.squashfs" >"$IMAGES/root"
    for f in usr/bin/kfarm usr/bin/containerd usr/sbin/runc usr/lib/cni/bridge usr/sbin/nft usr/bin/busybox \
        usr/lib64/ld-linux-x86-64.so.2 usr/share/kfarm/images/pause.tar etc/ssl/certs/ca-certificates.crt; do
        grep -q " squashfs-root/$f\( \|$\)" "$IMAGES/root"
    done
    ! grep -q 'usr/share/doc/' "$IMAGES/root" || false
    ! grep -q 'usr/share/man/' "$IMAGES/root"
}

@test "preloaded images are OCI layouts whose blobs have their digests" {
    unsquashfs -q -n -d "$IMAGES/x" "$(image)/root.squashfs" usr/share/kfarm/images >/dev/null
    mkdir "$IMAGES/oci"
    tar -xf "$IMAGES/x/usr/share/kfarm/images/pause.tar" -C "$IMAGES/oci"
    for blob in "$IMAGES"/oci/blobs/sha256/*; do
        [ "$(sha256sum <"$blob" | cut -d' ' -f1)" = "$(basename "$blob")" ]
    done
    manifest=$(jq -r '.manifests[0].digest' "$IMAGES/oci/index.json")
    layer=$(jq -r '.layers[0].digest' "$IMAGES/oci/blobs/sha256/${manifest#sha256:}")
    tar -xOf "$IMAGES/oci/blobs/sha256/${layer#sha256:}" kfarm | cmp - "$kfarm"
}

@test "boot loaders are there" {
    for f in undionly.kpxe snponly.efi ipxe.efi; do
        [ -s "$IMAGES/a/boot/$f" ]
    done
}

@test "ls shows it and rm removes it" {
    "$kfarm" image ls --data-dir "$IMAGES/a" | grep -q '^default '
    run "$kfarm" image rm nothing --data-dir "$IMAGES/a"
    [ "$status" -ne 0 ]
    [[ $output == *"no image nothing"* ]]
    run "$kfarm" image rm ../boot --data-dir "$IMAGES/a"
    [ "$status" -eq 2 ]
    cp -a "$IMAGES/a/images/default" "$IMAGES/a/images/other"
    "$kfarm" image rm other --data-dir "$IMAGES/a"
    [ ! -e "$IMAGES/a/images/other" ]
}

@test "wrong use is refused" {
    run "$kfarm" image
    [ "$status" -eq 2 ]
    run "$kfarm" image build --name 'Bad Name' --data-dir "$IMAGES/c"
    [ "$status" -eq 2 ]
    run "$kfarm" image build --zstd-level 99 --data-dir "$IMAGES/c"
    [ "$status" -eq 2 ]
}
