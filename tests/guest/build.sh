#!/bin/bash
# Build the guest in DIR, which fetch.sh has filled: DIR/vmlinux and DIR/initramfs.cpio.
#
#   build.sh DIR
#
# The initramfs is not compressed: under emulation unpacking costs more than reading. The kernel is the bare vmlinux,
# which the emulator enters by the PVH note, past the boot code and the decompressor.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=$(cd "$1" && pwd)
image=("$dir"/root/boot/vmlinuz-*)
[ -e "${image[0]}" ] || { echo "build.sh: $dir holds no kernel; run fetch.sh $dir" >&2; exit 1; }
version=${image[0]##*/vmlinuz-}

stamp="$version $(cat "$here/build.sh" "$here/init" "$here"/scenario/* | cksum)"
[ "$(cat "$dir/built" 2>/dev/null)" = "$stamp" ] && exit 0

# The payload of a bzImage is an xz stream somewhere behind the boot code.
IFS=: read -r offset _ < <(LC_ALL=C grep -obUaP '\xFD7zXZ\x00' "${image[0]}")
xz -dc --single-stream < <(tail -c "+$((offset + 1))" "${image[0]}") >"$dir/vmlinux"

tree=$(mktemp -d "$dir/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,run,tmp,mnt,etc,modules}

busybox=$(command -v busybox)
cp "$busybox" "$tree/bin/busybox"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done

# A program under its own name in /bin, its libraries where its loader looks for them.
add_program() {
    local program library
    program=$(PATH=$PATH:/usr/sbin:/sbin command -v "$1") || { echo "build.sh: $1 is not installed" >&2; exit 1; }
    rm -f "$tree/bin/$1"
    cp -L "$program" "$tree/bin/$1"
    ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
}
for program in nbd-client mkfs.ext4 e2fsck fstrim blkdiscard; do add_program "$program"; done
cp /etc/mke2fs.conf "$tree/etc/"

# The modules in the order in which they go in.
depmod -b "$dir/root" "$version"
for module in virtio_pci virtio_net virtio_blk nbd crc32c_generic ext4; do
    modprobe -d "$dir/root" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$tree/modules/paths"
while read -r path; do
    name=$(basename "${path%.xz}")
    case $path in
    *.xz) xz -dc "$path" >"$tree/modules/$name" ;;
    *) cp "$path" "$tree/modules/$name" ;;
    esac
    echo "$name" >>"$tree/modules/order"
done <"$tree/modules/paths"

install -m 755 "$here/init" "$tree/init"
cp -r "$here/scenario" "$tree/scenario"
(cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$dir/initramfs.cpio"
echo "$stamp" >"$dir/built"
