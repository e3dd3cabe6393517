#!/usr/bin/env bash
#SBATCH --job-name=harness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#
# A whole study on an allocation of Slurm: Ray's head on the first node, a worker on each of the others, then the study.
#
#     sbatch --nodes=4 --cpus-per-task=32 --gpus-per-node=4 jobs/slurm.sh cifar10 --data /shared/data --results /shared/results
#
# Takes the arguments of `harness run`. Submit it from the checkout, with the results on storage that all nodes share. Whatever
# ends the job (two minutes before its time limit Slurm asks it to stop), the same command goes on. docs/cluster.md has more.
#
#     VENV         the environment that has the harness, on every node    (.venv of the folder that it is submitted from)
#     INTERFACE    the network by which nodes reach the first one         (that of its first address)
set -euo pipefail

export PATH="${VENV:-$SLURM_SUBMIT_DIR/.venv}/bin:$PATH"
command -v harness >/dev/null || { echo "error: no harness in $PATH: name its environment with VENV" >&2; exit 2; }

# Others may use the same nodes: a token, a port and a folder of this job's own. Nothing of Ray's is stopped but what it started.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# At its end Ray would wait for half a minute, as long as Slurm does before it kills, for a driver that is gone.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
# What sbatch was given is not handed to steps by itself.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
if [ -n "${INTERFACE:-}" ]; then
    HEAD_IP=$(ip -o -4 address show dev "$INTERFACE" | awk '{sub("/.*", "", $4); print $4; exit}')
else
    HEAD_IP=$(hostname -I | cut -d' ' -f1)
fi
PORT=$((20000 + SLURM_JOB_ID % 10000))
FOLDER=/tmp/ray-$SLURM_JOB_ID
export RAY_ADDRESS=$HEAD_IP:$PORT
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# On a node: Ray with the cores that Slurm gave, until it is told to stop; then no file of it stays.
on_node() {
    ray start --block --disable-usage-stats --num-cpus="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" "$@" >/dev/null &
    local ray=$!
    trap 'kill -TERM $ray 2>/dev/null' TERM INT
    wait $ray || true
    wait $ray || true
    rm -rf "$FOLDER"
}
export -f on_node
export FOLDER

steps=() driver=
end_ray() {
    [ ${#steps[@]} -gt 0 ] || return 0
    scancel --signal=TERM "$SLURM_JOB_ID" || true # of the steps alone; srun itself would kill at once
    wait
}
trap end_ray EXIT
# To the driver, which keeps what is finished and ends; then to Ray.
stop() {
    [ -n "$driver" ] || exit 143
    kill -TERM "$driver" 2>/dev/null || true
}
trap stop TERM INT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$FIRST" bash -c 'on_node "$@"' head \
    --head --node-ip-address="$HEAD_IP" --port="$PORT" --include-dashboard=false --temp-dir="$FOLDER" &
steps+=($!)
for ((waited = 0; ; waited++)); do
    (: <"/dev/tcp/$HEAD_IP/$PORT") 2>/dev/null && break
    kill -0 "${steps[0]}" 2>/dev/null || { echo "error: Ray's head on $FIRST did not start" >&2; exit 1; }
    [ $waited -lt 120 ] || { echo "error: no answer from Ray's head at $RAY_ADDRESS for 120 s" >&2; exit 1; }
    sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes=$others --ntasks=$others --exclude="$FIRST" bash -c 'on_node "$@"' worker --address="$RAY_ADDRESS" &
    steps+=($!)
fi

# The driver waits for all nodes, sees that they have the same harness and find the results, and starts.
harness run "$@" --set compute.nodes="$SLURM_JOB_NUM_NODES" &
driver=$!
code=0
wait $driver || code=$?
while kill -0 $driver 2>/dev/null; do # a signal ended the wait, not the driver
    code=0
    wait $driver || code=$?
done
exit $code
