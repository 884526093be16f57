#!/usr/bin/env bash
# Installs a package of the agent and starts its service under a systemd of its own, in namespaces: nothing of this
# machine's files changes, and all of it ends with this program. Root is needed, overlayfs, and an installed systemd.
#
#   scripts/try-service.sh DEB FOLDER
#
# FOLDER/etc becomes /etc/lamina, FOLDER/samples.npz is /srv/samples.npz. FOLDER/agent.log gets the agent's output, and
# FOLDER/process what the kernel says of its process once it runs. The network is this machine's. Status 77: it can't be
# tried here.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" = 0 ] || { echo "try-service: root is needed" >&2; exit 77; }
    [ -x /lib/systemd/systemd ] || { echo "try-service: systemd isn't installed" >&2; exit 77; }
    unshare --mount --pid --fork --cgroup true 2>/dev/null || { echo "try-service: no namespaces here" >&2; exit 77; }
    dpkg-query --show python3 >/dev/null 2>&1 || { echo "try-service: the system has no Python" >&2; exit 77; }
    exec unshare --kill-child --mount --pid --fork --cgroup --ipc --uts --mount-proc bash "$0" --inside "$@"
fi
deb=$(realpath "$2") folder=$(realpath "$3")
cannot() { echo "try-service: $1" >&2; exit 77; }

space=$(mktemp -d)
mount -t tmpfs tmpfs "$space"
mkdir "$space"/{upper,work,root}
root=$space/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$space/upper,workdir=$space/work" "$root" || cannot "no overlayfs here"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || cannot "no control groups of version 2 here"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/out" "$root/etc/lamina" "$root/srv" "$root/old"
mount --bind "$folder" "$root/out"
cp "$deb" "$root/srv/agent.deb"
cp "$folder/samples.npz" "$root/srv/"
chmod 755 "$root/srv"
chmod 644 "$root/srv/samples.npz"
chroot "$root" dpkg --install /srv/agent.deb >"$folder/dpkg.log" 2>&1 || { tail -3 "$folder/dpkg.log" >&2; exit 1; }
install -m 600 "$folder"/etc/* "$root/etc/lamina/"
drop_in=$root/etc/systemd/system/lamina-agent.service.d
mkdir -p "$drop_in"
# What a whole system has beside the service is left out of this one.
printf '[Unit]\nDefaultDependencies=no\n[Service]\nStandardOutput=append:/out/agent.log\nStandardError=append:/out/agent.log\n' \
    >"$drop_in/here.conf"
printf '[Unit]\nDefaultDependencies=no\nWants=lamina-agent.service\n' >"$root/etc/systemd/system/tryout.target"
(
    until grep -qs . /out/process; do
        sleep 0.2
        for process in /proc/[0-9]*; do
            if [ "$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | grep -c 'lamina-agent --config')" = 1 ]; then
                grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' "$process/status" >/out/process.draft || continue
                find "$process/root/run/credentials/lamina-agent.service" -type f -printf '%f %m %U\n' >>/out/process.draft
                mv /out/process.draft /out/process
            fi
        done
    done
) 2>/dev/null &
cd "$root"
pivot_root . old
umount -l /old
mount --make-rshared / # so that systemd's mounts reach the service
exec env container=other /lib/systemd/systemd --system --unit=tryout.target --log-target=null --show-status=0
