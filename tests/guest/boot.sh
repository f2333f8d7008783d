#!/bin/bash
# Boot the guest of DIR; its console is standard input and output.
#
#   boot.sh DIR WORDS [ARGUMENT...]
#
# WORDS go to the guest's init on the kernel's command line, which says what it knows; 10.0.2.2 is this machine's
# loopback. ARGUMENTs go to the emulator: a disk of its own, a monitor. Ends when the guest powers off, or after
# GUEST_SECONDS (default 180).
set -euo pipefail

dir=$(cd "$1" && pwd)
words=$2
shift 2
emulator=$(command -v qemu-system-x86_64 || echo "$dir/root/usr/bin/qemu-system-x86_64")
share=$dir/root/usr/share
firmware=()
# -L is searched in the order given; an installed emulator knows its own folders.
[ ! -d "$share/qemu" ] || firmware=(-L "$share/qemu" -L "$share/seabios")

exec timeout --foreground --kill-after=5 "${GUEST_SECONDS:-180}" "$emulator" "${firmware[@]}" \
    -accel tcg -cpu max -smp 1 -m 512 -nodefaults -nographic -no-reboot -serial stdio -monitor none \
    -kernel "$dir/vmlinux" -initrd "$dir/initramfs.cpio" \
    -append "console=ttyS0 quiet panic=-1 mitigations=off $words" \
    -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= "$@"
