#!/bin/bash
# A SLURM of two machines inside this one, in namespaces of its own: mounts, processes, network, host names. No port of
# this machine is used, and the end of its first process is the end of everything. Needs root and, in Debian's words,
#   apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#
#   cluster.sh up DIR            starts it; `DIR/in COMMAND…` runs a command inside
#   cluster.sh down DIR
#   cluster.sh cut DIR NODE      takes a machine's power away
#   cluster.sh power DIR NODE    gives it back
#
# Partitions: batch, short (5 minutes at most), low (REQUEUE with GRACE_TIME seconds of grace), now (REQUEUE at once),
# high (preempts those two). Each machine has 8 cores and 4 GPUs that are none.
set -eu
self=$(realpath "$0")

write_configs() {
    head -c 1024 /dev/urandom > "$dir/munge.key"
    chmod 400 "$dir/munge.key"
    printf '127.0.0.1 localhost controller\n127.0.0.2 node1\n127.0.0.3 node2\n' > "$dir/hosts"
    for i in 0 1 2 3; do [ -e "$dir/gpu$i" ] || mknod "$dir/gpu$i" c 1 3; done # /dev/null
    echo "Name=gpu File=$dir/gpu[0-3]" > "$dir/gres.conf"
    cat > "$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=controller(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its old credential has run out, 120 s by default
AuthInfo=socket=$dir/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=15
SlurmdTimeout=20
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname=node1 NodeAddr=127.0.0.2 Port=17001 CPUs=8 RealMemory=8000 Gres=gpu:4 State=UNKNOWN
NodeName=node2 NodeHostname=node2 NodeAddr=127.0.0.3 Port=17002 CPUs=8 RealMemory=8000 Gres=gpu:4 State=UNKNOWN
PartitionName=batch Nodes=node[1-2] Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=short Nodes=node[1-2] MaxTime=5 State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=node[1-2] MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE_TIME:-60}
PartitionName=now Nodes=node[1-2] MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=node[1-2] MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

up() {
    mkdir -p "$dir/state"
    write_configs
    setsid unshare --mount --pid --net --uts --ipc --fork --mount-proc --kill-child \
        bash "$self" inside "$dir" > "$dir/up.log" 2>&1 < /dev/null &
    echo $! > "$dir/pid"
    for _ in $(seq 150); do
        [ -e "$dir/is-up" ] && break
        kill -0 "$(cat "$dir/pid")" 2> /dev/null || break
        sleep 0.2
    done
    if ! [ -e "$dir/is-up" ]; then
        cat "$dir"/*.log >&2
        exit 1
    fi
    first=$(cat /proc/"$(cat "$dir/pid")"/task/*/children | tr -d ' ')
    printf '#!/bin/sh\nexec nsenter --target %s --mount --pid --net --uts --ipc env --chdir="$PWD" SLURM_CONF=%s "$@"\n' \
        "$first" "$dir/slurm.conf" > "$dir/in"
    chmod +x "$dir/in"
}

inside() {
    hostname controller
    mount --make-rprivate /
    mount --bind "$dir/hosts" /etc/hosts
    # The loopback device, without iproute2. With a second address: getaddrinfo leaves names alone where there is only one.
    python3 -c '
import fcntl, socket, struct
s = socket.socket()
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x41))
fcntl.ioctl(s, 0x8916, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("127.0.0.2")))'
    export SLURM_CONF=$dir/slurm.conf
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" --pid-file="$dir/munge.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed" --num-threads=2
    slurmctld -c
    power node1
    power node2
    for _ in $(seq 100); do
        [ "$(sinfo -h -N -p batch -t idle -o %N | wc -l)" = 2 ] && : > "$dir/is-up" && break
        sleep 0.2
    done
    while :; do
        sleep 3600 &
        wait $! # the first process of a namespace buries those whose parents are gone
    done
}

power() { # inside: a machine has a name and processes of its own
    mkdir -p "$dir/spool-$1"
    setsid unshare --uts --pid --fork --mount-proc --kill-child \
        sh -c "hostname $1; slurmd -N $1; while :; do sleep 3600; done" > "$dir/$1.log" 2>&1 < /dev/null &
    echo $! > "$dir/$1.pid"
}

dir=$(realpath -m "$2")
case $1 in
up) up ;;
down) kill -9 "$(cat "$dir/pid")" ;;
cut) "$dir/in" sh -c "kill -9 \$(cat $dir/$3.pid)" ;;
power) "$dir/in" bash "$self" power-inside "$dir" "$3" ;;
power-inside) power "$3" ;;
inside) inside ;;
esac
