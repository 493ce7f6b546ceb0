#!/bin/bash
# lab.sh: a boot laboratory: one network namespace with a bridge, and QEMU machines on its taps. Used by the demo and tests.
#
#   lab.sh up LAB [--taps N] [--addr 10.77.0.1/24]  namespace kf-lab-LAB with bridge br0 and tap0 … (default 4 taps)
#   lab.sh exec LAB CMD…                            runs CMD in it (kfarm server, kubectl, tcpdump, …)
#   lab.sh boot LAB VM [options]                    powers a machine on, in the background
#       --bios             SeaBIOS with QEMU's iPXE ROM (default)
#       --uefi             OVMF with its own PXE: loads snponly.efi by TFTP
#       --uefi-http        OVMF with UEFI HTTP Boot only
#       --uefi-rom         OVMF with QEMU's iPXE ROM instead of its own network stack
#       --tap N            tap of the first NIC (default 0); its MAC is 52:54:00:77:00:NN
#       --mac MAC          another MAC
#       --nic2 N           a second NIC on tap N
#       --mem MB           default 1024
#       --smp N            default 1
#       --uuid UUID
#       --kvm              KVM instead of TCG: only where it is real, see docs/netboot.md
#       --disk FILE        a raw disk (virtio)
#   lab.sh wait LAB VM PATTERN SECONDS              until the serial console shows PATTERN (grep -E); 1 when it does not
#   lab.sh serial LAB VM                            the serial console so far, without escape sequences
#   lab.sh cut LAB VM                               power cut
#   lab.sh monitor LAB VM 'COMMAND'                 one command for QEMU's monitor (system_reset, info …)
#   lab.sh list LAB                                 machines and whether they run
#   lab.sh dir LAB                                  folder of the lab's state (consoles, packet captures)
#   lab.sh capture LAB [FILE]                       tcpdump on the bridge in the background, until down
#   lab.sh down LAB                                 stops everything started here and removes the namespace
#
# Nothing leaves the namespace: it has no link to the outside. Needs iproute2, qemu-system-x86, ovmf, ipxe-qemu; root.
set -euo pipefail

die() { echo "lab.sh: $*" >&2; exit 2; }
usage() { sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "$0"; exit "${1:-0}"; }

[ $# -ge 1 ] || usage 2
command=$1
shift
case $command in -h | --help | help) usage ;; esac
[ $# -ge 1 ] || usage 2
lab=$1
shift
[[ $lab =~ ^[a-z0-9-]{1,24}$ ]] || die "a lab's name has lower case letters, digits and dashes"
ns=kf-lab-$lab
dir=${LAB_DIR:-/tmp}/$ns

in_ns() { ip netns exec "$ns" "$@"; }
# The process of a pid file, if it is still the program it was made for.
alive() { # pidfile program
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == *"$2"* ]] && echo "$pid"
}
stop() { # pidfile program
    local pid
    pid=$(alive "$1" "$2") || return 0
    kill -KILL "$pid"
    for _ in $(seq 50); do [ -e "/proc/$pid" ] || return 0; sleep 0.1; done
}
need_lab() { [ -e "/run/netns/$ns" ] || die "no lab $lab (lab.sh up $lab)"; }
plain() { sed -e 's/\x1b\[[0-9;?=]*[a-zA-Z]//g' -e 's/\r//g' "$1" 2>/dev/null; }

lab_up() {
    local taps=4 addr=10.77.0.1/24 i
    while [ $# -gt 0 ]; do
        case $1 in
        --taps) taps=$2 ;;
        --addr) addr=$2 ;;
        *) die "up: unknown option $1" ;;
        esac
        shift 2
    done
    [ ! -e "/run/netns/$ns" ] || die "lab $lab is up already"
    mkdir -p "$dir"
    ip netns add "$ns"
    ip -n "$ns" link set lo up
    ip -n "$ns" link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    # The link-local address of the bridge must be usable at once, for router advertisements.
    in_ns sysctl -qw net.ipv6.conf.br0.accept_dad=0 net.ipv6.conf.br0.accept_ra=0 || true
    ip -n "$ns" addr add "$addr" dev br0
    ip -n "$ns" link set br0 up
    for ((i = 0; i < taps; i++)); do
        ip -n "$ns" tuntap add dev "tap$i" mode tap
        ip -n "$ns" link set "tap$i" master br0 up
    done
}

lab_down() {
    local f
    for f in "$dir"/*/qemu.pid; do [ -e "$f" ] && stop "$f" qemu-system; done
    stop "$dir/tcpdump.pid" tcpdump
    ip netns del "$ns" 2>/dev/null || true
    rm -rf "$dir"
}

lab_boot() {
    local vm=${1:-} firmware=bios tap=0 mac='' nic2='' mem=1024 smp=1 uuid='' accel=tcg,thread=multi,tb-size=256 cpu=max disk=''
    [[ $vm =~ ^[a-z0-9-]+$ ]] || die "boot: name the machine"
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --bios | --uefi | --uefi-http | --uefi-rom) firmware=${1#--}; shift; continue ;;
        --kvm) accel=kvm cpu=host; shift; continue ;;
        --tap) tap=$2 ;;
        --mac) mac=$2 ;;
        --nic2) nic2=$2 ;;
        --mem) mem=$2 ;;
        --smp) smp=$2 ;;
        --uuid) uuid=$2 ;;
        --disk) disk=$2 ;;
        *) die "boot: unknown option $1" ;;
        esac
        shift 2
    done
    local d=$dir/$vm
    mkdir -p "$d"
    ! alive "$d/qemu.pid" qemu-system >/dev/null || die "$vm runs already"
    rm -f "$d/qemu.pid"
    [ ! -e "$d/serial.log" ] || mv "$d/serial.log" "$d/serial.$(date +%s%N).log"
    : "${mac:=$(printf '52:54:00:77:00:%02x' "$tap")}" "${uuid:=$(printf '77777777-0000-4000-8000-%012x' "$tap")}"
    local rom=''
    [[ $firmware != uefi && $firmware != uefi-http ]] || rom=,romfile= # OVMF's own network stack, not the iPXE ROM
    local q=(qemu-system-x86_64 -name "$vm" -machine q35,graphics=off -accel "$accel" -cpu "$cpu" -smp "$smp" -m "$mem"
        -nodefaults -display none -serial "file:$d/serial.log" -monitor "unix:$d/monitor,server=on,wait=off"
        -uuid "$uuid" -device virtio-rng-pci
        -netdev "tap,id=n0,ifname=tap$tap,script=no,downscript=no"
        -device "virtio-net-pci,netdev=n0,mac=$mac,bootindex=1$rom")
    [ -z "$nic2" ] || q+=(-netdev "tap,id=n1,ifname=tap$nic2,script=no,downscript=no"
        -device "virtio-net-pci,netdev=n1,mac=$(printf '52:54:00:77:00:%02x' "$nic2"),bootindex=2$rom")
    [ -z "$disk" ] || q+=(-drive "file=$disk,format=raw,if=virtio")
    if [ "$firmware" != bios ]; then
        [ -e "$d/vars.fd" ] || cp /usr/share/OVMF/OVMF_VARS_4M.fd "$d/vars.fd"
        q+=(-drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd
            -drive "if=pflash,format=raw,unit=1,file=$d/vars.fd")
    fi
    if [ "$firmware" = uefi-http ]; then # otherwise HTTP comes after minutes of PXE timeouts
        q+=(-fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n)
    fi
    printf '%q ' "${q[@]}" >"$d/command"
    in_ns "${q[@]}" -daemonize -pidfile "$d/qemu.pid"
    cat "$d/qemu.pid"
}

lab_wait() {
    local vm=$1 pattern=$2 end=$((SECONDS + $3))
    while :; do
        if plain "$dir/$vm/serial.log" | grep -aqE -- "$pattern"; then return 0; fi
        [ $SECONDS -lt $end ] || break
        sleep 0.2
    done
    echo "lab.sh: $vm did not show \"$pattern\" within $3 s; the end of its console:" >&2
    plain "$dir/$vm/serial.log" | tail -20 >&2
    return 1
}

case $command in
up) lab_up "$@" ;;
down) lab_down ;;
dir) echo "$dir" ;;
exec) need_lab; exec ip netns exec "$ns" "$@" ;;
boot) need_lab; lab_boot "$@" ;;
wait) need_lab; lab_wait "$@" ;;
serial) plain "$dir/$1/serial.log" ;;
cut) stop "$dir/$1/qemu.pid" qemu-system ;;
monitor) # the monitor echoes; only what follows the command counts
    python3 - "$dir/$1/monitor" "$2" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(3)
s.connect(sys.argv[1])
text = b""
s.sendall(sys.argv[2].encode() + b"\n")
try:
    while text.count(b"(qemu) ") < 2:
        text += s.recv(65536)
except TimeoutError:
    pass
print(text.split(b"\n", 2)[-1].rsplit(b"(qemu) ", 1)[0].decode(errors="replace").strip())
PY
    ;;
list)
    for d in "$dir"/*/; do
        [ -e "$d/command" ] || continue
        pid=$(alive "$d/qemu.pid" qemu-system) && echo "$(basename "$d") running $pid" || echo "$(basename "$d") off"
    done
    ;;
capture)
    need_lab
    in_ns tcpdump -i br0 -U -w "${1:-$dir/br0.pcap}" -q 2>/dev/null >/dev/null &
    echo $! >"$dir/tcpdump.pid"
    ;;
*) die "unknown command $command (lab.sh --help)" ;;
esac
