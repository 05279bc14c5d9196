# A systemd as pid 1 of namespaces of its own, on a root file system of its own: the host's programs, its device nodes, and
# nothing else of it. Started as `unshare --mount --propagation private sh systemd.sh FOLDER QHERD`; its units, and there are
# no others, are in FOLDER/etc/systemd/system. Ends, and leaves nothing, when its standard input ends.
set -eu
folder=$1 qherd=$2
mkdir -p "$folder/cgroups"
mount -t cgroup2 none "$folder/cgroups"
cgroup=$folder/cgroups/qherd-test-$$
mkdir "$cgroup"

root=$folder/root
mkdir -p "$root"
mount -t tmpfs none "$root"
(
    cd "$root"
    mkdir -p usr proc sys dev/net dev/shm run tmp opt var/lib old
    cp -a "$folder/etc" .
    for link in /bin /sbin /lib /lib32 /lib64; do
        [ ! -L "$link" ] || cp -P "$link" .
    done
    mount --rbind /usr usr
    cp -a /etc/ld.so.cache /etc/passwd /etc/group /etc/nsswitch.conf /etc/alternatives etc/
    : >etc/machine-id
    for node in null zero full random urandom tty net/tun; do
        : >"dev/$node"
        mount --bind "/dev/$node" "dev/$node"
    done
    : >opt/qherd
    mount --bind "$qherd" opt/qherd
)

# From here on in the cgroup; a cgroup namespace begins where its first process is.
sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' - "$cgroup" \
    env -i container=qherd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \
    unshare --pid --mount --cgroup --fork --kill-child sh -ec '
        cd "$1"
        mount -t proc none proc
        mount -t sysfs none sys
        mount -t cgroup2 none sys/fs/cgroup
        pivot_root . old
        cd /
        umount -l /old
        mount -t tmpfs none /run
        exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=0
    ' - "$root" </dev/null &
machine=$!
# Where it is, for nsenter.
echo "$machine"
cat >/dev/null
kill -KILL "$machine"
wait "$machine" || true
# The last processes may still be on their way out.
while [ -d "$cgroup" ]; do
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
done
