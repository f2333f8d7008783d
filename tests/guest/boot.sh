#!/bin/bash
# Boot the guest of DIR against an NBD server on this machine's loopback; its console is standard input and output.
#
#   boot.sh DIR PORT EXPORT MEBIBYTES
#
# Ends when the guest powers off, or after GUEST_SECONDS (default 180).
set -euo pipefail

dir=$(cd "$1" && pwd)
emulator=$(command -v qemu-system-x86_64 || echo "$dir/root/usr/bin/qemu-system-x86_64")
share=$dir/root/usr/share
firmware=()
# -L is searched in the order given; an installed emulator knows its own folders.
[ ! -d "$share/qemu" ] || firmware=(-L "$share/qemu" -L "$share/seabios")

exec timeout --foreground --kill-after=5 "${GUEST_SECONDS:-180}" "$emulator" "${firmware[@]}" \
    -accel tcg -cpu max -smp 1 -m 512 -nodefaults -nographic -no-reboot -serial stdio -monitor none \
    -kernel "$dir/vmlinux" -initrd "$dir/initramfs.cpio" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off plimsoll.port=$2 plimsoll.export=$3 plimsoll.mebibytes=$4" \
    -netdev user,id=net -device virtio-net-pci,netdev=net,romfile=
