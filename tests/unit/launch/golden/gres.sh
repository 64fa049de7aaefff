#!/usr/bin/env bash
#SBATCH --job-name=novels
#SBATCH --nodes=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:a100:4
#SBATCH --mem-per-gpu=64GB
#SBATCH --time=UNLIMITED
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --chdir=/shared/runs/novels/launch
#SBATCH --output=%x-%j.log
#SBATCH --requeue
set -euo pipefail
cd -- '/shared/my project'
export RESONANCE_FAILURE_LOG=/shared/runs/novels/launch/failures
export RESONANCE_RENDEZVOUS_SECRET_FILE=/shared/runs/novels/launch/.rendezvous-secret
mode=${1:-single}
script=/shared/runs/novels/launch/job.sh
run_file=/shared/runs/novels/launch/run.toml
first=$SLURMD_NODENAME
port=$((20000 + SLURM_JOB_ID % 20000))
python=/shared/venv/bin/python
limits=(20 3 2)
step=
stopped=0
again=0
stop() {
    echo "resonance: received a request to stop; the ranks save and exit"
    stopped=1
    again=1
    if [[ -n $step ]]; then kill -USR1 "$step" || true; fi
}
trap stop USR1 TERM

env \
    OMP_NUM_THREADS=1 \
    srun \
    --nodes="$SLURM_NNODES" \
    --ntasks="$SLURM_NNODES" \
    --ntasks-per-node=1 \
    --mem=0 \
    --export=ALL \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --kill-on-bad-exit=0 \
    --wait=300 \
    /shared/venv/bin/python \
    -m \
    pretrain.runtime.torchrun_agent \
    --nnodes="$SLURM_NNODES" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:$port" \
    --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
    --node-index-variable=SLURM_NODEID \
    --nproc-per-node=4 \
    --max-restarts=3 \
    --module \
    pretrain.cli \
    pretrain \
    "$run_file" \
    --auto-resume &
step=$!
status=0
wait "$step" || status=$?
# a signal ends `wait` early: wait again after each one
while ((again)); do
    again=0
    status=0
    wait "$step" || status=$?
done
trap '' USR1 TERM
# a marked line: a site's squeue may print more
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --states=all --format=state=%T |
    sed -n 's/^state=//p' | tail -n 1) || state=UNKNOWN
decision=$("$python" -m launch.slurm.requeue "${limits[@]}" "$status" "$stopped" "$state" \
    "${SLURM_RESTART_COUNT:-0}" "$mode") || decision=stop
decision=${decision##*$'\n'}
echo "resonance: the ranks ended with status $status; now: $decision"
case $decision in
requeue)
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this script
    sleep 600
    ;;
exclude\ *)
    "$python" -m launch.slurm.resubmit "${decision#exclude }" "$mode" "$script" || true
    ;;
esac
exit "$status"
