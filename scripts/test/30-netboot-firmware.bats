#!/usr/bin/env bats
# Four ways from power-on to an initrd, with QEMU's firmware: BIOS with an iPXE ROM, BIOS through undionly.kpxe, OVMF PXE
# through snponly.efi, OVMF UEFI HTTP Boot. The kernel is Debian's, the initrd a shell that asks for an address.
# timeout: 2400

LAB=$BATS_TEST_DIRNAME/../lab.sh
KFARM=$(readlink -f "${KFARM:-$BATS_TEST_DIRNAME/../../build/kfarm}")

# Debian's kernel and the modules of a virtio NIC in an initrd of busybox; kept, since it does not depend on us.
make_image() {
    local cache=${KFARM_CACHE:-$HOME/.cache/kfarm}/test-kernel package version f
    if [ ! -e "$cache/initrd.img" ]; then
        mkdir -p "$cache"
        local k
        cd "$(mktemp -d -p "$BATS_FILE_TMPDIR")"
        k=$PWD/k
        package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
        apt-get download "$package" >&2
        dpkg -x linux-image-*.deb k
        version=$(ls k/lib/modules)
        depmod -b "$k" "$version"
        mkdir -p i/bin i/proc i/sys i/dev "i/lib/modules/$version"
        cp /bin/busybox i/bin/
        for f in virtio_pci virtio_net af_packet; do
            modprobe -d "$k" -S "$version" --show-depends $f | awk '/^insmod/ { print $2 }'
        done | sort -u | while read -r f; do
            mkdir -p "i/$(dirname "${f#"$k"/}")"
            cp "$f" "i/${f#"$k"/}"
        done
        cp "k/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "i/lib/modules/$version/"
        depmod -b "$PWD/i" "$version"
        cat >i/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/console
for m in virtio_pci virtio_net af_packet; do modprobe $m; done
echo "INITRD $(cat /proc/cmdline)"
n=0; while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
ip link set eth0 up
udhcpc -i eth0 -q -n -s /bin/true && echo INITRD-HAS-ADDRESS
poweroff -f
INIT
        chmod 755 i/init
        (cd i && find . | cpio -o -H newc --quiet | gzip -9) >"$cache/initrd.tmp"
        cp "k/boot/vmlinuz-$version" "$cache/vmlinuz"
        mv "$cache/initrd.tmp" "$cache/initrd.img"
        cd - >/dev/null
    fi
    mkdir -p "$1"
    cp "$cache/vmlinuz" "$cache/initrd.img" "$1/"
}

setup_file() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    export NAME=fw-$$ LAB_DIR=$BATS_FILE_TMPDIR W=$BATS_FILE_TMPDIR/work
    mkdir -p "$W"/{boot,images,data}
    make_image "$W/images/node"
    cp /usr/lib/ipxe/{undionly.kpxe,snponly.efi} "$W/boot/"
    cat >"$W/plan.json" <<'PLAN'
{"images": [{"name": "node", "kernel": "node/vmlinuz", "initrd": "node/initrd.img", "args": "console=ttyS0 panic=-1"}],
 "networks": [{"name": "lab", "cidr": "10.77.0.0/24", "range": {"start": "10.77.0.100", "end": "10.77.0.150"},
               "gateway": "10.77.0.1"}],
 "nodes": [
  {"name": "bios", "macs": ["52:54:00:77:00:00"], "ip": "10.77.0.20", "image": "node", "args": "who=bios"},
  {"name": "chain", "macs": ["52:54:00:77:00:01"], "ip": "10.77.0.21", "image": "node", "args": "who=chain", "reloadIPXE": true},
  {"name": "uefi", "macs": ["52:54:00:77:00:02"], "ip": "10.77.0.22", "image": "node", "args": "who=uefi"},
  {"name": "http", "macs": ["52:54:00:77:00:03"], "ip": "10.77.0.23", "image": "node", "args": "who=http"},
  {"name": "grub", "macs": ["52:54:00:77:00:06"], "ip": "10.77.0.26", "image": "node", "args": "who=grub",
   "options": {"67": "grubnetx64.efi"}},
  {"name": "two", "macs": ["52:54:00:77:00:14", "52:54:00:77:00:05"], "ip": "10.77.0.24", "image": "node", "args": "who=two"}]}
PLAN
    "$LAB" up "$NAME" --taps 6
    "$LAB" exec "$NAME" "$KFARM" netboot --interface br0 --plan "$W/plan.json" --data-dir "$W/data" --boot-dir "$W/boot" \
        --images-dir "$W/images" --log-level debug 2>"$W/log" >/dev/null 3>&- &
    echo $! >"$W/pid"
    for _ in $(seq 600); do grep -q msg=ready "$W/log" && break; sleep 0.1; done
}

teardown_file() {
    [ -z "${NAME:-}" ] || {
        kill "$(cat "$W/pid")"
        "$LAB" down "$NAME"
    }
}

teardown() {
    show_last || tail -n 12 "$W/log"
}

# boots VM WHO OPTIONS…
boots() {
    local vm=$1 who=$2
    shift 2
    "$LAB" boot "$NAME" "$vm" --mem 512 "$@"
    "$LAB" wait "$NAME" "$vm" "INITRD .*who=$who" 600
    "$LAB" wait "$NAME" "$vm" INITRD-HAS-ADDRESS 240
    "$LAB" cut "$NAME" "$vm"
}

@test "BIOS with an iPXE ROM, without waiting for an IPv6 router" {
    boots bios bios --bios --tap 0
    run grep -c "tftp: sent" "$W/log"
    [ "$output" = 0 ] # it needs no other loader
    # iPXE solicits a router in growing pauses, six times until it gives up 15 s after the first, and boots then: so it
    # took an answer when it has its script after fewer. (More than one when the machine is too slow for its first pauses,
    # of 0.25 s and twice as long each.)
    run grep -c "router advertisement" <(sed "/boot script/q" "$W/log")
    [ "$output" -ge 1 ] && [ "$output" -le 5 ]
}

@test "BIOS through undionly.kpxe, loaded once" {
    boots chain chain --bios --tap 1
    run grep -c "tftp: sent.*undionly.kpxe" "$W/log"
    [ "$output" = 1 ]
}

@test "OVMF PXE through snponly.efi" {
    boots uefi uefi --uefi --tap 2
    grep -q "tftp: sent.*snponly.efi.*10.77.0.22" "$W/log"
}

@test "OVMF UEFI HTTP Boot" {
    boots http http --uefi-http --tap 3
    ! grep -q "tftp: sent.*10.77.0.23" "$W/log"
}

@test "OVMF PXE through GRUB, kernel by TFTP" {
    cp /usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi "$W/boot/"
    boots grub grub --uefi --tap 3 --mac 52:54:00:77:00:06
    grep -q "tftp: sent.*images/node/initrd.img.*10.77.0.26" "$W/log"
}

@test "a machine with two NICs of which only the second is cabled boots as itself" {
    # The first one's cable is out.
    "$LAB" exec "$NAME" ip link set tap4 nomaster
    "$LAB" boot "$NAME" two --mem 512 --bios --tap 4 --mac 52:54:00:77:00:14 --nic2 5
    "$LAB" wait "$NAME" two "INITRD .*who=two" 600
    "$LAB" cut "$NAME" two
    grep -q "msg=lease node=two hw=52:54:00:77:00:05 ip=10.77.0.24" "$W/log"
}

@test "the server never crashed and no transfer failed" {
    ! grep -E "lvl=(error|warn)|AddressSanitizer" "$W/log"
}
