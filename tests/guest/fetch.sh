#!/bin/bash
# Fetch what boots the guest into DIR: Debian's kernel, and an emulator where the machine has none.
#
#   fetch.sh DIR
#
# Nothing is installed. A kernel package would run its hooks (initramfs, boot loader) on a machine that boots
# something else, and the emulator of one Debian release conflicts with the qemu tools of the next; unpacked beside
# them, both do no harm. The emulator's shared libraries are ordinary packages: emulator-libraries.sh names them.
set -euo pipefail

dir=$1
mkdir -p "$dir/debs"
dir=$(cd "$dir" && pwd)

kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
[ -n "$kernel" ] || { echo "fetch.sh: no package list names linux-image-amd64; run apt-get update" >&2; exit 1; }

packages=("$kernel")
command -v qemu-system-x86_64 >/dev/null ||
    packages+=(qemu-system-x86 qemu-system-common qemu-system-data seabios ipxe-qemu)

[ "$(cat "$dir/fetched" 2>/dev/null)" = "${packages[*]}" ] && exit 0

rm -rf "$dir/root" "$dir/fetched" "$dir/built"
mkdir -p "$dir/root"
(cd "$dir/debs" && rm -f -- *.deb && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}")

# Of the kernel's 400 MB only the folders that can hold a module of ours or one it needs.
modules='./lib/modules/*/kernel'
for deb in "$dir"/debs/*.deb; do
    case ${deb##*/} in
    linux-image-*)
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/root" --wildcards './boot/vmlinuz-*' \
            './lib/modules/*/modules.*' "$modules/drivers/virtio/*" "$modules/drivers/net/*.ko*" \
            "$modules/net/core/*" "$modules/drivers/block/*.ko*" "$modules/fs/ext4/*" "$modules/fs/jbd2/*" \
            "$modules/fs/mbcache.ko*" "$modules/lib/*" "$modules/crypto/*" "$modules/arch/x86/crypto/*"
        ;;
    *) dpkg-deb -x "$deb" "$dir/root" ;;
    esac
    rm -f "$deb"
done
echo "${packages[*]}" >"$dir/fetched"
