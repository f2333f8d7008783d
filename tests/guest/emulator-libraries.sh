#!/bin/bash
# Name the Debian packages of the shared libraries that the emulator is linked to, for `apt-get install`.
set -euo pipefail

apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    qemu-system-x86 qemu-system-common | awk '/ Depends: lib/ { print $2 }' | sort -u
